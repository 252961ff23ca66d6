"""Stored mixtures are read one at a time, by index or by id, from files of any number of row groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ww_data import StoredMixtures

NUM, SAMPLES = 37, 5


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """37 mixtures in groups of 16: the n-th is n throughout, its clean side -n."""
    noisy_KT = np.tile(np.arange(NUM, dtype=np.float32)[:, None], SAMPLES)
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray
    columns = {"id": [f"test-{n:05d}" for n in range(NUM)], "snr_db": [float(n % 5) for n in range(NUM)]}
    table = pa.table(columns | {"noisy": tensor(noisy_KT), "clean": tensor(-noisy_KT)})
    path = tmp_path_factory.mktemp("mixtures") / "test.parquet"
    pq.write_table(table, path, row_group_size=16, compression="none")
    return path


def test_each_is_found_by_its_index_and_by_its_id(path: Path) -> None:
    mixtures = StoredMixtures(path)
    assert len(mixtures) == NUM
    assert mixtures.snrs_db[:6] == [0.0, 1.0, 2.0, 3.0, 4.0, 0.0]
    for index in [*range(NUM), 16, 0, 36, 15]:
        for which in (index, mixtures.ids[index]):
            noisy_T, clean_T = mixtures[which]
            assert noisy_T.dtype == clean_T.dtype == np.float32
            np.testing.assert_array_equal(noisy_T, np.full(SAMPLES, index))
            np.testing.assert_array_equal(clean_T, np.full(SAMPLES, -index))


def test_what_is_not_there_is_an_error(path: Path) -> None:
    mixtures = StoredMixtures(path)
    with pytest.raises(IndexError):
        mixtures[NUM]
    with pytest.raises(ValueError, match="test-99999"):
        mixtures["test-99999"]
    assert len(list(mixtures)) == NUM
