"""Checks that a PEFT directory Timbre saved holds, bit for bit, the spectra of the one it was loaded from.

Both are read with Python's safetensors, the reader PEFT itself uses. The settings that decide what the spectra
mean must be equal too.

    peft_roundtrip.py --packages target/python ORIGINAL SAVED
"""

import argparse
import json
import pathlib
import sys

# Settings of adapter_config.json that change the weights an adapter makes, and what PEFT takes where they are absent.
SETTINGS = {
    "peft_type": None,
    "n_frequency": 1000,
    "n_frequency_pattern": {},
    "scaling": 150.0,
    "random_loc_seed": 777,
    "fan_in_fan_out": False,
    "bias": "none",
}


def read(folder):
    """The tensors of a PEFT directory by name, and its configuration."""
    from safetensors.numpy import load_file

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return load_file(folder / "adapter_model.safetensors"), config


def differences(original, saved):
    """What differs between two PEFT directories, a line each."""
    tensors, config = read(original)
    saved_tensors, saved_config = read(saved)
    for name in sorted(tensors.keys() ^ saved_tensors.keys()):
        yield f"{name}: only in {original if name in tensors else saved}"
    for name in sorted(tensors.keys() & saved_tensors.keys()):
        a, b = tensors[name], saved_tensors[name]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            yield f"{name}: {a.dtype}{list(a.shape)} became {b.dtype}{list(b.shape)}"
        elif a.tobytes() != b.tobytes():
            yield f"{name}: {(a != b).sum()} of {a.size} values changed"
    for key, default in SETTINGS.items():
        a, b = config.get(key, default), saved_config.get(key, default)
        if a != b:
            yield f"adapter_config.json, {key}: {a!r} became {b!r}"
    if not tensors:
        yield f"{original}: no tensors, so nothing was checked"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", help="a folder to import numpy and safetensors from")
    parser.add_argument("--check", action="store_true", help="only say by the exit code whether they can be imported")
    parser.add_argument("original", type=pathlib.Path, nargs="?")
    parser.add_argument("saved", type=pathlib.Path, nargs="?")
    arguments = parser.parse_args()
    if arguments.packages:
        sys.path.insert(0, arguments.packages)
    if arguments.check:
        try:
            import safetensors.numpy  # noqa: F401
        except ImportError:
            return 1
        return 0
    if arguments.original is None or arguments.saved is None:
        parser.error("two PEFT directories are needed")
    found = list(differences(arguments.original, arguments.saved))
    for line in found:
        print(line, file=sys.stderr)
    if not found:
        print(f"{arguments.saved}: every spectrum is bit-identical to {arguments.original}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
