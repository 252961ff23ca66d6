"""Files of a folder or an address: whole or not there, found again under their names, fetched once."""

from __future__ import annotations

import fcntl
import hashlib
import pickle
import re
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest

from ww_data.storage import Storage, StorageError, held_alone, whole_file


@pytest.fixture(params=["folder", "address"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(
        tmp_path / "corpus" if request.param == "folder" else f"memory://{uuid.uuid4().hex}/corpus"
    )


def test_what_was_written_is_found(storage: Storage) -> None:
    assert list(storage.files()) == []
    storage.write("b/two.bin", b"22")
    storage.write("b/a/one.bin", b"1")
    assert [(file.name, file.size_bytes) for file in storage.files()] == [
        ("b/a/one.bin", 1),
        ("b/two.bin", 2),
    ]
    assert storage.read("b/two.bin") == b"22"
    assert storage.child("b").read("a/one.bin") == b"1"
    with storage.open("b/two.bin") as file:
        assert file.read() == b"22"
    assert storage.size("b/two.bin") == 2
    assert storage.size("b") is None
    assert storage.size("else") is None
    storage.delete("b/two.bin")
    storage.delete("b/two.bin")
    assert [file.name for file in storage.files()] == ["b/a/one.bin"]
    with pytest.raises(OSError, match=r"b/two\.bin"):
        storage.read("b/two.bin")


def fail_half_way(storage: Storage, name: str) -> None:
    with storage.writing(name) as path:
        path.write_bytes(b"ne")
        _ = 1 / 0


def test_a_file_appears_whole_or_not_at_all(storage: Storage) -> None:
    storage.write("x.bin", b"old")
    for name in ("x.bin", "y.bin"):
        with pytest.raises(ZeroDivisionError):
            fail_half_way(storage, name)
    assert [(file.name, file.size_bytes) for file in storage.files()] == [("x.bin", 3)]
    assert storage.read("x.bin") == b"old"


def test_it_pickles_as_its_address(storage: Storage) -> None:
    storage.write("x.bin", b"1")
    again = pickle.loads(pickle.dumps(storage))
    assert again == storage
    assert again.read("x.bin") == b"1"


def test_a_remote_file_is_fetched_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WW_CACHE", str(tmp_path / "cache"))
    storage = Storage(f"memory://{uuid.uuid4().hex}/corpus")
    old, new = (hashlib.sha256(content).hexdigest() for content in (b"content", b"other"))
    storage.write("noise/x.arrow", b"content")
    first = storage.on_this_machine("noise/x.arrow", old)
    assert first.read_bytes() == b"content"
    storage.delete("noise/x.arrow")
    assert storage.on_this_machine("noise/x.arrow", old) == first
    with pytest.raises(OSError, match=r"x\.arrow"):
        storage.on_this_machine("noise/x.arrow", new)
    storage.write("noise/x.arrow", b"other")
    assert storage.on_this_machine("noise/x.arrow", new).read_bytes() == b"other"
    storage.write("noise/x.arrow", b"damaged")
    with pytest.raises(OSError, match="wrong checksum"):
        storage.on_this_machine("noise/x.arrow", hashlib.sha256(b"third").hexdigest())
    assert first.read_bytes() == b"content"


def test_a_local_file_is_its_own_copy(tmp_path: Path) -> None:
    assert Storage(tmp_path).on_this_machine("x.bin", "") == tmp_path / "x.bin"
    assert Storage(f"file://{tmp_path}") == Storage(tmp_path)


def test_options_stay_with_an_address() -> None:
    storage = Storage("s3://bucket/corpus?endpoint_override=http://127.0.0.1:9")
    assert storage.address("x.bin") == "s3://bucket/corpus/x.bin"
    assert storage.child("noise").uri == "s3://bucket/corpus/noise?endpoint_override=http://127.0.0.1:9"


@pytest.mark.parametrize(
    "address",
    [
        "s3://me:hush@bucket/corpus",
        "s3://me:hush/hush@bucket/corpus",  # secrets hold / and @, too
        "s3://me:12/hush@bucket/corpus",
        "s3://me:hush@hush@bucket/corpus",
        "sftp://me:hush/hush@host/corpus",
        "s3://bucket/corpus?secret_key=hush&region=eu",
        "abfs://container@account/corpus?sig=hush",
    ],
)
def test_keys_in_an_address_are_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID") as caught:
        Storage(address)
    assert "hush" not in str(caught.value)


def test_a_colon_in_a_path_is_no_key() -> None:
    storage = Storage("s3://bucket/a:b@c?endpoint_override=http://127.0.0.1:9")
    assert storage.address("x.bin") == "s3://bucket/a:b@c/x.bin"
    with pytest.raises(StorageError, match=r"hdfs://nowhere\.invalid:1/a@b: cannot be reached"):
        Storage("hdfs://nowhere.invalid:1/a@b")


def test_an_unknown_address_is_one_clear_error() -> None:
    with pytest.raises(StorageError, match="tape://reel: no file system is known for it"):
        Storage("tape://reel")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3:///corpus", "is not an address that can be used (Missing bucket name"),
        ("s3://bucket/corpus?wrong=1", "is not an address that can be used (Unexpected query parameter"),
        ("hdfs://nowhere.invalid:1/corpus", "cannot be reached ("),
    ],
)
def test_what_is_wrong_with_an_address_is_told_in_a_line(address: str, words: str) -> None:
    with pytest.raises(StorageError, match=re.escape(f"{address}: {words}")) as caught:
        Storage(address)
    assert "\n" not in str(caught.value)


def test_a_container_before_the_account_is_no_key() -> None:
    address = "abfs://container@account.dfs.core.windows.net/corpus"
    assert Storage(address).address("x.bin") == f"{address}/x.bin"


def test_a_lock_is_held_by_one_also_where_it_is_removed_between_two_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, held = tmp_path / ".lock", ExitStack()
    first = ExitStack()
    first.enter_context(held_alone(path))
    with pytest.raises(BlockingIOError), held_alone(path):
        pass

    def let_another_in(lock: IO[str], how: int) -> None:
        """The second has opened the first one's file, which is gone when it takes it."""
        monkeypatch.undo()
        first.close()
        held.enter_context(held_alone(path))
        fcntl.flock(lock, how)

    monkeypatch.setattr("ww_data.storage.fcntl.flock", let_another_in)
    with pytest.raises(BlockingIOError), held_alone(path):
        pass
    held.close()
    assert not path.exists()


@pytest.mark.parametrize("name", ["x" * 251 + ".wav", "ы" * 125 + ".wav", "x" * 250 + ".flac"])
def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path, name: str) -> None:
    with whole_file(tmp_path / name) as partial:
        assert partial.suffix == Path(name).suffix
        partial.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]
