#!/usr/bin/env bash
# ml_dtypes 0.6.0 with numpy 2.4.6, vectors of bfloat16 in .npy and .npz files
#
# Expected: np.load gives back the type that np.save was given, or np.save refuses it.
# Instead: np.save takes the types of ml_dtypes without a word. bfloat16 and float8_e4m3fn come back as "|V2" and "|V1",
# bytes without a type, even with ml_dtypes imported: they cannot be cast, and only a view with the right type, which
# the file does not name, gets the numbers back. A file of float8_e5m2 is written with the type "<f1", and np.load
# raises a ValueError for it.
# In a retrieval system: an index that is stored in less memory cannot be read without knowing what wrote it. Save a
# view as uint16 or uint8 and store the type's name beside it, or use a format that names the type.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ml_dtypes==0.6.0 numpy==2.4.6

"$folder/venv/bin/python" - "$folder" <<'EOF'
import sys

import ml_dtypes
import numpy as np

file = sys.argv[1] + "/vectors.npy"
vectors = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
outcomes = {}
for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
    saved = vectors.astype(dtype)
    np.save(file, saved)
    name = saved.dtype.name
    try:
        loaded = np.load(file)
    except ValueError as error:
        outcomes[name] = f"np.load raises ValueError: {error}"
        continue
    outcomes[name] = f"np.load gives {loaded.dtype.str}"
    try:
        loaded.astype(np.float32)
    except (TypeError, ValueError):
        outcomes[name] += ", no cast to float32"
    if (loaded.view(dtype) == saved).all():
        outcomes[name] += ", right when viewed as what it was"

for name, outcome in outcomes.items():
    print(f"{name}: {outcome}")
kept = "no cast to float32, right when viewed as what it was"
sys.exit(
    outcomes["bfloat16"] != f"np.load gives |V2, {kept}"
    or outcomes["float8_e4m3fn"] != f"np.load gives |V1, {kept}"
    or not outcomes["float8_e5m2"].startswith("np.load raises ValueError")
)
EOF
