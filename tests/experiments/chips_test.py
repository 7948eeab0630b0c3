import pytest

from experiments import chips
from muq_jax.errors import UserError


def test_a_topology_names_its_chip():
    chip = chips.tpu("v5e:16x16")
    assert (chip.name, chip.flops["bfloat16"], chip.hbm_bytes) == ("TPU v5e", 197e12, 16 * 2**30)
    assert chip.link_bytes_per_s == 200e9
    assert chip.flops["float32"] == pytest.approx(197e12 / 6)


@pytest.mark.parametrize("topology", ["v5e", "v9z:2x2", "", "cpu"])
def test_an_unknown_topology_is_named(topology):
    with pytest.raises(
        UserError, match=rf"--topology='{topology}': expected gpu, or a TPU.*v4, v5e, v5p, v6e"
    ):
        chips.tpu(topology)


def test_a_gpu_is_known_by_its_kind():
    assert chips.gpu("NVIDIA H100 80GB HBM3") is chips.GPUS["H100 80GB HBM3"]
    for other in ("Radeon", "NVIDIA H100 PCIe", "NVIDIA A100-SXM4-40GB"):
        with pytest.raises(UserError, match=f"nothing is known of '{other}'"):
            chips.gpu(other)


@pytest.mark.parametrize("chip", [*chips.TPUS.values(), *chips.GPUS.values()], ids=lambda chip: chip.name)
def test_peaks_are_in_base_units(chip):
    assert 1e14 < chip.flops["bfloat16"] < 2e15 and chip.flops["float32"] < chip.flops["bfloat16"]
    assert 1e10 < chip.hbm_bytes < 2e11 and 5e11 < chip.hbm_bytes_per_s < 1e13
    assert 1e11 < chip.link_bytes_per_s < 1e12
