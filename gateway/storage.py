"""Where pictures are kept: an interface, and a local folder behind it."""

import asyncio
import errno
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")
NAME = re.compile(r"[0-9a-f]{32}\.[a-z]+")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StorageError(Exception):
    """The store cannot keep or give a picture; `full` if it has no room."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class Storage(Protocol):
    """Keeps pictures' files under names that it chooses. A stored picture never changes."""

    async def save(self, content: bytes, extension: str) -> str:
        """Stores `content` and returns its name, `<id>.<extension>`.

        StorageError if it cannot, and then nothing is stored.
        """
        ...

    async def load(self, name: str) -> bytes | None:
        """The picture called `name`, None if there is none; StorageError if it cannot be read."""
        ...


class LocalStorage:
    """One file a picture in `folder`, which is created if absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    async def save(self, content: bytes, extension: str) -> str:
        # Random, not a content hash: repeating a request must not give the address of another's picture.
        name = f"{secrets.token_hex(16)}.{extension}"
        await _in_thread(lambda: self._write(name, content))
        return name

    async def load(self, name: str) -> bytes | None:
        if not NAME.fullmatch(name):
            return None
        return await _in_thread(lambda: self._read(self.folder / name))

    def _write(self, name: str, content: bytes) -> None:
        """Whole or not at all. Holding the exclusive part file makes the check and the rename one step."""
        path, part = self.folder / name, self.folder / f".{name}.part"
        with part.open("xb") as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                self._publish(part, path)
            finally:
                part.unlink(missing_ok=True)

    def _publish(self, part: Path, path: Path) -> None:
        if path.exists():
            raise FileExistsError(f"picture {path.name} exists already")
        part.rename(path)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @staticmethod
    def _read(path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


async def _in_thread(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise StorageError(str(error), full=error.errno in FULL) from error
