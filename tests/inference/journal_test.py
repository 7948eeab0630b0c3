import numpy as np
import pytest

from muq_jax.inference.journal import Journal

RECORDS = [
    ({"id": "a"}, np.arange(6, dtype=np.float32).reshape(2, 3)),
    ({"id": "é"}, None),
    ({}, np.ones((1, 1))),
]


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal")
    positions = [journal.append(*record) for record in RECORDS]
    journal.close()
    return journal, positions


def test_what_is_added_is_read_again(journal):
    journal, positions = journal
    again = Journal(journal.path)
    assert list(again.records()) == [(at, text) for at, (text, _) in zip(positions, RECORDS, strict=True)]
    np.testing.assert_array_equal(again.read(positions[0]), RECORDS[0][1])
    np.testing.assert_array_equal(again.read(positions[2]), RECORDS[2][1])


def test_whatever_is_cut_or_garbled_the_records_before_it_are_whole(journal, tmp_path):
    journal, positions = journal
    data = journal.path.read_bytes()
    ends = [*positions[1:], len(data)]
    for cut in range(len(data) + 1):
        garbled = bytes([data[cut] ^ 1]) + data[cut + 1 :] if cut < len(data) else b""
        for tail in (b"", garbled):
            damaged = Journal(tmp_path / "damaged")
            damaged.path.write_bytes(data[:cut] + tail)
            whole = sum(end <= cut for end in ends)
            assert len(list(damaged.records())) == whole
            position = damaged.append({"id": "new"}, None)
            damaged.close()
            assert position == ([0, *ends][whole])
            assert list(Journal(damaged.path).records())[-1] == (position, {"id": "new"})


def test_no_journal_has_no_records(tmp_path):
    journal = Journal(tmp_path / "journal")
    assert list(journal.records()) == []
    journal.remove()
    assert not journal.path.exists()
