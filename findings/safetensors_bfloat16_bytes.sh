#!/usr/bin/env bash
# safetensors 0.8.0, safetensors.numpy, with ml_dtypes 0.6.0
#
# Expected: safetensors.numpy.load reads what safetensors.numpy.save wrote, as load_file reads what save_file wrote.
# Instead: vectors of bfloat16 are written by both and read from a file, but load raises KeyError('BF16') for the very
# bytes that load_file reads once they are in a file.
# In a retrieval system: a service that sends bfloat16 vectors as safetensors bytes works with files in its tests and
# fails at the client. Send float32 or float16, or write the bytes to a file before reading.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 ml_dtypes==0.6.0 numpy==2.4.6

"$folder/venv/bin/python" - "$folder" <<'EOF'
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load, load_file, save

vectors = np.random.default_rng(0).standard_normal((3, 4)).astype(ml_dtypes.bfloat16)
data = save({"vectors": vectors})
file = Path(sys.argv[1], "vectors.safetensors")
file.write_bytes(data)
from_file = load_file(file)["vectors"]
same = from_file.dtype == vectors.dtype and (from_file == vectors).all()
print(f"load_file: {from_file.dtype} {from_file.shape}, equal: {same}")
try:
    print("load:", load(data)["vectors"].dtype)
    raised = False
except KeyError as error:
    print(f"load: KeyError {error}")
    raised = True
sys.exit(not (same and raised))
EOF
