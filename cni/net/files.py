"""Small files of the host that appear whole or not at all, and reading what others wrote. The door; it knows no content."""

from __future__ import annotations

import errno
import os
import stat

from cni.spec.errors import CNIError, KernelError

# As much as a configuration may have.
LIMIT = 1 << 20

# Names that a process which was killed may leave: a whole file that was to take the place of another, and, where a file system
# has no unnamed files, one that was being written.
NEXT, UNFINISHED = ".next", ".unfinished"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW

# How a file system says that it has no unnamed files; ENOENT also comes when /proc, by which they are named, is not there.
_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)

# Nothing can be there, whatever the name.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def read(path: str, follow: bool = True) -> bytes | None:
    """A file's content, None where there is none. KernelError for what cannot be read, is no file, or is too large; without
    ``follow`` for a symbolic link, too.
    """
    words = f"cannot read {path}"
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe must not hold us up
    try:
        fd = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CNIError(f"{words!r}: {error}") from error
    except OSError as error:
        raise KernelError(words, error) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise CNIError(f"{words}: it is no file")
        with open(fd, "rb", closefd=False) as file:
            raw = file.read(LIMIT + 1)
    except OSError as error:
        raise KernelError(words, error) from error
    finally:
        os.close(fd)
    if len(raw) > LIMIT:
        raise CNIError(f"{words}: it is larger than {LIMIT} bytes")
    return raw


def names(folder: str) -> list[str]:
    """The names in a folder, sorted; none where there is no folder."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        if error.errno in _NOT_THERE:
            return []
        raise KernelError(f"cannot list folder {folder}", error) from error


def write(path: str, content: bytes, new: bool) -> None:
    """Make a file, with its folder, or give it new content; only root may read either. With ``new`` it is an error that there
    is a file already (KernelError with EEXIST). A process that is killed leaves the old or the new.
    """
    folder, _, name = path.rpartition("/")
    try:
        fd = _opened(folder)
        try:
            if new:
                _make(fd, name, content)
            else:
                _replace(fd, name, content)
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        raise _failure(f"cannot write {path}", error) from error


def remove(path: str) -> bool:
    """Remove a file, whatever it is but a folder, without following it; False when it was gone already."""
    found = False
    for each in (path, path + NEXT, path + UNFINISHED):
        try:
            os.unlink(each)
            found = True
        except (OSError, ValueError) as error:
            if not isinstance(error, OSError) or error.errno not in _NOT_THERE:
                raise _failure(f"cannot remove {each}", error) from error
    return found


def unwritable(folder: str) -> str:
    """Why no file could be made in a folder, which itself may have to be made; empty when one could."""
    there = folder
    while True:
        try:
            fd = os.open(there, _FOLDER)
            break
        except FileNotFoundError:
            there = there.rpartition("/")[0] or "/"
        except (OSError, ValueError) as error:
            return str(_failure(f"cannot open folder {there}", error))
    try:
        os.close(os.open(".", os.O_TMPFILE | _WRITE, 0o600, dir_fd=fd))
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILES:
            return str(_failure(f"cannot write in folder {there}", error))
        return "" if os.access(there, os.W_OK | os.X_OK) else f"cannot write in folder {there}: it may not be written"
    finally:
        os.close(fd)
    return ""


def _opened(folder: str) -> int:
    try:
        return os.open(folder, _FOLDER)
    except FileNotFoundError:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return os.open(folder, _FOLDER)


def _make(folder: int, name: str, content: bytes) -> None:
    """Written without a name and then linked; where the file system cannot do that, under another name."""
    try:
        fd = os.open(".", os.O_TMPFILE | _WRITE, 0o600, dir_fd=folder)
        try:
            _write(fd, content)
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=folder)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILES:
            raise
        _make_named(folder, name, content)


def _make_named(folder: int, name: str, content: bytes) -> None:
    other = name.removesuffix(NEXT) + UNFINISHED
    _forget(folder, other)
    fd = os.open(other, os.O_CREAT | os.O_EXCL | _WRITE, 0o600, dir_fd=folder)
    try:
        _write(fd, content)
        os.link(other, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(fd)
        _forget(folder, other)


def _replace(folder: int, name: str, content: bytes) -> None:
    other = name + NEXT
    _forget(folder, other)  # a killed process's
    _make(folder, other, content)
    try:
        os.rename(other, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        _forget(folder, other)
        raise


def _forget(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass


def _write(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]


def _failure(words: str, error: OSError | ValueError) -> CNIError:
    return KernelError(words, error) if isinstance(error, OSError) else CNIError(f"{words!r}: {error}")
