"""What accelerators can do at most, as their makers publish it."""

import dataclasses
from collections.abc import Mapping

from muq_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip's peaks.

    Attributes:
        name: as its maker calls it.
        flops: operations a second by the type that a product is meant to be exact in.
        hbm_bytes: main memory.
        hbm_bytes_per_s: reading and writing it.
        link_bytes_per_s: what it can send to the other chips of its slice or machine, all links together.
        network_bytes_per_s: its share of what its host can send to other slices; None where not published.
    """

    name: str
    flops: Mapping[str, float]
    hbm_bytes: float
    hbm_bytes_per_s: float
    link_bytes_per_s: float
    network_bytes_per_s: float | None = None


def _tpu(
    name: str,
    teraflops: float,
    hbm_gb: float,
    hbm_gb_per_s: float,
    link_gbit_per_s: float,
    network_gbit_per_s: float | None,
) -> Chip:
    # A TPU multiplies bfloat16; float32 products are put together from six of those (`precision="highest"`).
    flops = {"bfloat16": teraflops * 1e12, "float32": teraflops * 1e12 / 6}
    # The gigabytes of HBM are 2^30 bytes; of a v5e's 16 a program gets 15.75.
    network = network_gbit_per_s and network_gbit_per_s / 8 * 1e9
    return Chip(name, flops, hbm_gb * 2**30, hbm_gb_per_s * 1e9, link_gbit_per_s / 8 * 1e9, network)


# Cloud TPU documentation, "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e", tables of key chip specifications:
# peak compute per chip (bf16), HBM capacity and bandwidth, inter-chip interconnect bandwidth per chip one way
# (in Gbps; the newest editions give both ways together, in GBps); data-centre network bandwidth per chip (of
# 6.4 Tbps for the 256 chips of a v5e; of a v6e and a v4 it was not found). Keyed as topologies are named.
TPUS = {
    "v4": _tpu("TPU v4", 275, 32, 1228, 2400, None),
    "v5e": _tpu("TPU v5e", 197, 16, 819, 1600, 25),
    "v5p": _tpu("TPU v5p", 459, 95, 2765, 4800, 50),
    "v6e": _tpu("TPU v6e", 918, 32, 1638, 3200, None),
}

# NVIDIA's data sheets of the A100 80 GB SXM, H100 SXM, H200 SXM: dense bf16 on tensor cores (not the figure
# with sparsity), float32 outside of them, memory, NVLink one way (half of the total).
GPUS = {
    "A100-SXM4-80GB": Chip("A100 80 GB SXM", {"bfloat16": 312e12, "float32": 19.5e12}, 80e9, 2039e9, 300e9),
    "H100 80GB HBM3": Chip("H100 80 GB SXM", {"bfloat16": 989e12, "float32": 67e12}, 80e9, 3350e9, 450e9),
    "H200": Chip("H200 141 GB SXM", {"bfloat16": 989e12, "float32": 67e12}, 141e9, 4800e9, 450e9),
}


def tpu(topology: str) -> Chip:
    """Returns the chip of a topology's name such as "v5e:16x16".

    Raises:
        UserError: it is none of those in `TPUS`, or not of that form.
    """
    name, _, shape = topology.partition(":")
    if name not in TPUS or not shape:
        raise UserError(
            f"--topology={topology!r}: expected gpu, or a TPU and the shape of its slice, such as v5e:8x8; "
            f"the TPUs are {', '.join(TPUS)}."
        )
    return TPUS[name]


def gpu(device_kind: str) -> Chip:
    """Returns the chip of a device's `device_kind` such as "NVIDIA H100 80GB HBM3".

    Raises:
        UserError: its peaks are not in `GPUS`.
    """
    for name, chip in GPUS.items():
        if name in device_kind:
            return chip
    raise UserError(f"--topology=gpu: nothing is known of {device_kind!r}; the GPUs are {', '.join(GPUS)}.")
