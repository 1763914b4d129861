#!/usr/bin/env bash
# torch 2.14.1, torch.nn.functional.interpolate(mode="bicubic"), against Pillow 13.0.0
#
# Expected: antialias matters only where a photo shrinks, so a photo that is made larger comes out the same with it and
# without, as it does with mode="bilinear".
# Instead: with antialias=True the cubic kernel has the parameter -0.5, as Pillow's has; without it -0.75. The enlarged
# photo differs by tens of levels at edges. Only antialias=True is Pillow's bicubic.
# In a retrieval system: a preprocessor written with interpolate (antialias is off by default) gives small photos, and
# thumbnails above all, another sharpness than the model was trained on, and other vectors than a Pillow pipeline's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 pillow==13.0.0 numpy==2.4.6

"$folder/venv/bin/python" - <<'EOF'
import sys

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

pixels = np.full((100, 100), 255, np.uint8)
pixels[30:70, 20:80] = 40  # a dark block on white
photo = torch.from_numpy(pixels).float()[None, None]


def enlarge(mode, antialias):
    large = interpolate(photo, size=(224, 224), mode=mode, antialias=antialias)
    return large.round().clamp(0, 255)[0, 0].numpy()


pillow = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC)).astype(float)
bilinear = np.abs(enlarge("bilinear", True) - enlarge("bilinear", False)).max()
bicubic = np.abs(enlarge("bicubic", True) - enlarge("bicubic", False)).max()
with_antialias = np.abs(enlarge("bicubic", True) - pillow).max()
without = np.abs(enlarge("bicubic", False) - pillow).max()
print("largest difference, in levels of 255, of a photo enlarged from 100 to 224 pixels:")
print(f"bilinear, antialias on and off: {bilinear:.0f}")
print(f"bicubic, antialias on and off:  {bicubic:.0f}")
print(f"bicubic, antialias on, from Pillow:  {with_antialias:.0f}")
print(f"bicubic, antialias off, from Pillow: {without:.0f}")
sys.exit(not (bilinear <= 1 and with_antialias <= 2 and bicubic >= 8 and without >= 8))
EOF
