"""List the files that a candidate may read: its interpreter's, the shared libraries it needs, and some packages'.

Any other place on the machine could hold an answer: a data set in an installed package, a folder of the project, the
standard library's own tests.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import struct
import sys
import time
from collections.abc import Iterable
from importlib import util
from typing import NamedTuple

DEVICES = ("/dev/null", "/dev/urandom")
DATA = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/usr/lib/locale/C.utf8")  # data, never run
DAY = 86400.0  # seconds
_LIBRARY_FOLDERS = ("/lib", "/usr/lib", "/usr/local/lib", f"{sys.base_prefix}/lib")
_HIDDEN = ("site-packages", "dist-packages", "test")  # in the standard library's folder
_ELF64 = b"\x7fELF\x02\x01"  # little-endian


class Paths(NamedTuple):
    """Files that a candidate may read.

    Attributes:
        shown: files and folders that may be read.
        hidden: folders inside `shown` that may not.
        library: the folders of the standard library.
    """

    shown: list[str]
    hidden: list[str]
    library: list[str]

    def pieces(self) -> list[str]:
        """Return the same without `hidden`: a folder that contains a hidden one is replaced by its other entries."""
        found = []
        for path in self.shown:
            inside = {name for name in self.hidden if os.path.dirname(name) == path}
            found += [path] if not inside else [f"{path}/{n}" for n in os.listdir(path) if f"{path}/{n}" not in inside]
        return found


def readable(packages: tuple[str, ...]) -> Paths:
    """Find the files that a Python program needs if it may import these packages; skip those not installed."""
    home = os.path.dirname(os.__file__)
    dynamic = [path for path in sys.path if os.path.basename(path) == "lib-dynload" and os.path.isdir(path)]
    chosen = [path for name in packages for path in package_paths(name)]
    modules = [
        path for folder in (*dynamic, *chosen) for path in glob.glob(f"{glob.escape(folder)}/**/*.so*", recursive=True)
    ]
    libraries = shared_libraries([sys.executable, *modules, *(path for path in chosen if path.endswith(".so"))])
    shown = {home, *dynamic, *chosen, *libraries, *filter(os.path.exists, DATA)}
    hidden = [path for path in (f"{home}/{name}" for name in _HIDDEN) if os.path.isdir(path)]
    inner = {path for path in shown if path.startswith(_of(shown)) and not path.startswith(_of(hidden))}
    inner |= {path for path in shown if path.startswith(_of(chosen))}
    return Paths(sorted(shown - inner), hidden, [home, *dynamic])


def read_all(paths: Paths) -> float:
    """Read a byte of every file and list every folder, so that a check's own reads change no access time.

    This works on mounts that update access times as Linux does by default ("relatime"): once a day, or after the file
    changed.

    Returns:
        the time.time() at which the first access time can change again.
    """
    now, times = time.time(), []

    def look(path: str) -> None:
        link, info = os.lstat(path), os.stat(path)
        due = any(one.st_atime <= max(one.st_mtime, one.st_ctime, now - DAY) for one in (link, info))
        if due and not stat.S_ISDIR(info.st_mode):
            with open(path, "rb") as file:
                file.read(1)
        if due:
            link, info = os.lstat(path), os.stat(path)
        times.extend((link.st_atime, info.st_atime))

    for piece in paths.pieces():
        found = [piece, *(f"{top}/{name}" for top, folders, names in os.walk(piece) for name in (*folders, *names))]
        for path in found:
            try:
                look(path)
            except OSError:
                pass  # a link to nowhere, or a file that a child cannot read either
    # a time that is still older belongs to a mount that does not update access times
    return min((moment for moment in times if moment > now - DAY), default=now) + DAY


def _of(folders: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{folder}/" for folder in folders)


def package_paths(name: str) -> list[str]:
    """Return the files and folders of a package and those its distribution installs beside it (numpy.libs).

    A package that is not installed has none.
    """
    try:
        spec = util.find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    own = list(spec.submodule_search_locations or ([spec.origin] if spec.origin else []))
    own = [path for path in own if os.path.isabs(path) and os.path.exists(path)]
    beside = [path for folder in map(os.path.dirname, own) for path in _beside(name, folder)]
    return sorted({*own, *beside})


def _beside(name: str, folder: str) -> list[str]:
    from importlib import metadata  # not at the top: it loads much, and the zygote, which imports this, must stay small

    try:
        distributions = [name] if metadata.distribution(name) else []
    except metadata.PackageNotFoundError:
        distributions = (
            metadata.packages_distributions().get(name, []) if hasattr(metadata, "packages_distributions") else []
        )
    tops = {file.parts[0] for one in distributions for file in metadata.files(one) or []}
    tops |= {f"{name}.libs"}
    # a program does not import the .dist-info, the scripts, or the byte code folder that all packages share
    return [path for path in (f"{folder}/{top}" for top in tops if re.fullmatch(r"\w+(\.libs|\.\S*so|\.py)?", top))
            if os.path.exists(path) and not path.endswith("__pycache__")]  # fmt: skip


def shared_libraries(files: Iterable[str]) -> list[str]:
    """Find the shared libraries that these programs and modules need, directly or not, where the loader looks."""
    try:
        with open("/etc/ld.so.cache", "rb") as cache:
            listed = [os.fsdecode(path) for path in re.findall(rb"/[^\0]+", cache.read())]
    except OSError:
        listed = []  # musl has none
    where: dict[str, list[str]] = {}
    for path in listed:
        where.setdefault(os.path.basename(path), []).append(path)
    waiting, seen, found = (
        list(files),
        set(),
        {path for path in where.get("libgcc_s.so.1", ())},
    )  # libgcc_s: pthread_exit opens it
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        names, folders = _needed(path)
        for name in names:
            places = [os.path.normpath(f"{folder}/{name}") for folder in (*folders, *_LIBRARY_FOLDERS)]
            new = {place for place in (*places, *where.get(name, ())) if os.path.isfile(place)}
            found |= new
            waiting += new
    return sorted(found)


def _needed(path: str) -> tuple[list[str], list[str]]:
    """Return the libraries that an ELF file names and the folders that it wants searched for them.

    Both are empty for other files.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            if head[:6] != _ELF64:
                return [], []
            (table,) = struct.unpack_from("<Q", head, 32)
            size, count = struct.unpack_from("<HH", head, 54)
            file.seek(table)
            segments = [struct.unpack_from("<IIQQQQ", file.read(size)) for _ in range(count)]
            dynamic = next((s for s in segments if s[0] == 2), None)
            if dynamic is None:
                return [], []
            file.seek(dynamic[2])
            entries = list(struct.iter_unpack("<QQ", file.read(dynamic[5] // 16 * 16)))
            text = dict(entries)[5]  # address in memory of the string table
            start = next(s[2] + text - s[3] for s in segments if s[0] == 1 and s[3] <= text < s[3] + s[5])

            def string(offset: int) -> str:
                file.seek(start + offset)
                return os.fsdecode(file.read(4096).partition(b"\0")[0])

            names = [string(value) for tag, value in entries if tag == 1]
            folders = [part for tag, value in entries if tag in (15, 29) for part in string(value).split(":")]
    except (OSError, struct.error, KeyError, StopIteration):
        return [], []
    origin = os.path.dirname(path)
    return names, [part.replace("${ORIGIN}", origin).replace("$ORIGIN", origin) for part in folders if part]
