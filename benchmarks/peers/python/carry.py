"""Makes a folder of Python packages that a machine with a GPU and without a network can use beside its own, and packs it in parts.

    python carry.py OUTPUT [--part 30] [--keep-site]      here: OUTPUT/site.tar.xz.00, .01, ...
    cat site.tar.xz.* | tar -xJ -C DIR                    there; then: python cuda_train.py --site DIR

The packages are those that unsloth and Liger need beside torch, triton, transformers and peft, which the machine must have, for Python 3.12 on Linux
x86_64. cuda_train.py puts the folder behind the machine's own packages, so that whatever is installed there is what is measured.

What no import reaches is left out: tests, headers, unsloth's studio, bitsandbytes for other versions of CUDA. A shared library stays if an extension
module that stays needs it, directly or through another library; every library that is needed must be in the folder or be one that the machine has. That
is checked from the ELF files, and where this program runs under Python 3.12 by imports too.
"""
import argparse
import lzma
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile

import repackage

PYTHON = "3.12"
GLIBC = [28, 27, 24, 17]  # of manylinux_2_N; pip wants each by name

# In the order of who needs them: what is measured, then what it imports. Those without a version take the newest that exists when this is run.
PACKAGES = """
unsloth==2026.10.9 unsloth_zoo==2026.10.9 trl==1.15.0 liger-kernel==0.8.5 bitsandbytes==0.50.2
torchao cut_cross_entropy tyro docstring-parser typeguard msgspec hf_transfer structlog json5 nest-asyncio
pydantic==2.14.4 pydantic-core==2.50.5 annotated-types typing-inspection
datasets>=4.7,<5 dill<0.4.2 multiprocess<0.70.20 xxhash pyarrow pandas python-dateutil six pytz tzdata
aiohttp aiosignal aiohappyeyeballs frozenlist multidict yarl propcache attrs
""".split()

# Folders at the top of a wheel that nothing of the training imports.
FOREIGN = {"studio", "unsloth_cli", "test", "tests", "benchmarks", "docs"}

# Extension modules of pyarrow that its Python files import only if they can: remote file systems and formats that nothing here reads. With them
# go the libraries that they alone need.
OPTIONAL = ["pyarrow/" + m for m in "_flight _substrait _gcsfs _s3fs _azurefs _hdfs _orc _dataset_orc _cuda _parquet_encryption _dataset_parquet_encryption".split()]

# Libraries of every Linux with glibc, and those of torch, which a module of the folder may need after torch is loaded.
SYSTEM = ("ld-linux-x86-64.so", "libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "libutil.so", "libresolv.so", "libgcc_s.so", "libstdc++.so")
TORCH = ("libtorch", "libgomp.so", "libc10", "libcudart.so", "libcublas", "libcusparse", "libnvJitLink.so", "libcuda.so")

# What must be importable from the folder alone.
IMPORTS = ["pyarrow", "pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet", "pyarrow.csv", "pyarrow.json", "pyarrow.fs", "pandas", "multiprocess", "dill", "xxhash", "aiohttp",
           "msgspec", "tyro", "pydantic", "structlog", "json5"]


def download(folder):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", folder, "--python-version", PYTHON,
               "--implementation", "cp"]
    for platform in ["manylinux_2_%d_x86_64" % n for n in GLIBC] + ["manylinux2014_x86_64", "manylinux1_x86_64"]:
        command += ["--platform", platform]
    subprocess.run(command + PACKAGES, check=True)
    return sorted(os.path.join(folder, w) for w in os.listdir(folder) if w.endswith(".whl"))


def wanted(name):
    """Whether a file of a wheel is kept, libraries aside."""
    parts = name.split("/")
    if parts[0] in FOREIGN or parts[0].endswith(".data") or any(p in ("tests", "include", "__pycache__") for p in parts[1:-1]):
        return False
    if any(name.startswith(m + ".") for m in OPTIONAL):
        return False
    if parts[0] == "bitsandbytes":
        return repackage.wanted(name, "130")
    return not name.endswith((".pyx", ".pxd", ".pxi", ".h", ".hpp", ".c", ".cpp", ".pyi", ".a", ".map"))


def unpack(wheels, site):
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as z:
            for info in z.infolist():
                if not info.is_dir() and wanted(info.filename):
                    z.extract(info, site)


def needed(path):
    """The libraries that an ELF file of 64 bits names as needed: DT_NEEDED of its dynamic section."""
    with open(path, "rb") as f:
        data = f.read()
    if data[:5] != b"\x7fELF\x02":
        return []
    at, = struct.unpack_from("<Q", data, 40)  # of the section headers
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, at + i * size) for i in range(count)]
    out = []
    for _, kind, _, _, offset, length, link, *_ in sections:
        if kind != 6:  # SHT_DYNAMIC
            continue
        strings = sections[link][4]
        for entry in range(offset, offset + length, 16):
            tag, value = struct.unpack_from("<QQ", data, entry)
            if tag == 1:
                start = strings + value
                out.append(data[start:data.index(b"\0", start)].decode())
    return out


def libraries(site):
    """Deletes shared libraries that no extension module needs, and returns what is needed and not there: {library: who needs it}."""
    modules, libs = [], {}
    for folder, _, names in os.walk(site):
        for n in names:
            path = os.path.join(folder, n)
            if ".so" not in n:
                continue
            module = ".cpython-" in n or ".abi3." in n or "bitsandbytes" in n  # whose libraries Python opens by name
            if n.startswith("lib") and not module:
                libs.setdefault(n, []).append(path)
            else:
                modules.append(path)
    reached, missing, queue = set(), {}, list(modules)
    while queue:
        path = queue.pop()
        for lib in needed(path):
            if lib in libs:
                if lib not in reached:
                    reached.add(lib)
                    queue += libs[lib]
            elif not lib.startswith(SYSTEM + TORCH):
                missing.setdefault(lib, os.path.relpath(path, site))
    for lib in set(libs) - reached:
        for path in libs[lib]:
            os.remove(path)
    return missing


def importable(site):
    """Imports IMPORTS with the folder in front, or says why that cannot be tried."""
    if "%d.%d" % sys.version_info[:2] != PYTHON:
        return "not imported: this is Python %d.%d" % sys.version_info[:2]
    environment = dict(os.environ, PYTHONPATH=site)
    probe = "import importlib, sys\nfor m in sys.argv[1:]: importlib.import_module(m)"
    try:
        import numpy  # noqa: F401: pyarrow and pandas want it
    except ImportError:
        return "not imported: numpy is not installed here"
    subprocess.run([sys.executable, "-c", probe, *IMPORTS], check=True, env=environment)
    return "%d modules import" % len(IMPORTS)


def plain(info):
    """The same archive for the same files: no owner, no time."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def pack(site, out, part):
    """Writes site as parts of a tar.xz of at most so many bytes each, and returns their paths, which sort in their order."""
    whole = os.path.join(out, "site.tar.xz")
    with lzma.open(whole, "wb", preset=9) as z, tarfile.open(fileobj=z, mode="w") as tar:
        for name in sorted(os.listdir(site)):
            tar.add(os.path.join(site, name), arcname=name, filter=plain)
    parts = []
    digits = max(2, len(str(os.path.getsize(whole) // part)))
    with open(whole, "rb") as f:
        while piece := f.read(part):
            parts.append("%s.%0*d" % (whole, digits, len(parts)))
            with open(parts[-1], "wb") as p:
                p.write(piece)
    os.remove(whole)
    return parts


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("output")
    p.add_argument("--part", type=int, default=30, help="megabytes of a part, at most")
    p.add_argument("--keep-site", action="store_true", help="leave the unpacked folder OUTPUT/site too")
    a = p.parse_args()
    if a.part < 1:
        p.error("--part: %d; a part has at least 1 megabyte" % a.part)
    site = os.path.join(a.output, "site")
    if os.path.exists(site):
        sys.exit("%s is there already: delete it, or name another folder" % site)
    os.makedirs(site)
    with tempfile.TemporaryDirectory() as tmp:
        wheels = download(tmp)
        unpack(wheels, site)
        print("\n".join(os.path.basename(w) for w in wheels))
    missing = libraries(site)
    if missing:
        sys.exit("needed and not there:\n" + "\n".join("  %s, by %s" % m for m in sorted(missing.items())))
    print("every library that is needed is there;", importable(site))
    for old in os.listdir(a.output):
        if old.startswith("site.tar.xz"):
            os.remove(os.path.join(a.output, old))
    for path in pack(site, a.output, a.part * 10**6):
        print("%s: %.1f MB" % (path, os.path.getsize(path) / 1e6))
    if not a.keep_site:
        shutil.rmtree(site)


if __name__ == "__main__":
    main()
