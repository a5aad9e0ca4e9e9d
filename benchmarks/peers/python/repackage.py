"""Makes a small wheel of bitsandbytes: its Python files and the libraries of the processor and of one CUDA version.

    python repackage.py OUTPUT_FOLDER [--version 0.50.2] [--cuda 130]

The wheel of the package index holds libraries for a dozen versions of CUDA and ROCm, 150 MB unpacked; on a machine without a network what is
carried there should be small. The result is installed by `pip install --no-deps --target DIR WHEEL`.
"""
import argparse
import glob
import os
import subprocess
import sys
import tempfile
import zipfile


def wanted(name, cuda):
    """Whether a file of the wheel is kept."""
    if not name.endswith(".so"):
        return True
    return name.endswith("_cpu.so") or name.endswith("_cuda%s.so" % cuda)


def repackage(wheel, folder, cuda):
    """Writes the small wheel and returns its path."""
    out = os.path.join(folder, os.path.basename(wheel))
    with zipfile.ZipFile(wheel) as z:
        names = [i.filename for i in z.infolist()]
        if not any(n.endswith("_cuda%s.so" % cuda) for n in names):
            have = sorted(n for n in names if "_cuda" in n)
            sys.exit("%s has no library for CUDA %s; it has %s" % (wheel, cuda, ", ".join(have)))
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as w:
            for n in names:
                if not wanted(n, cuda):
                    continue
                data = z.read(n)
                if n.endswith("dist-info/RECORD"):  # lists what is in the wheel
                    lines = data.decode().splitlines(True)
                    data = "".join(l for l in lines if wanted(l.split(",")[0], cuda)).encode()
                w.writestr(n, data)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder")
    p.add_argument("--version", default="0.50.2")
    p.add_argument("--cuda", default="130")
    a = p.parse_args()
    os.makedirs(a.folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", tmp,
                        "bitsandbytes==" + a.version], check=True)
        out = repackage(glob.glob(os.path.join(tmp, "*.whl"))[0], a.folder, a.cuda)
    print("%s: %.1f MB" % (out, os.path.getsize(out) / 1e6))


if __name__ == "__main__":
    main()
