#!/usr/bin/env bash
# Pillow 13.0.0 against 12.3.0, Image.resize
#
# Expected: an upgrade of the decoder's library leaves a bicubic resize as it was, byte for byte.
# Instead: Pillow 12 scales the width first, then the height. Pillow 13 takes the height first for some sizes and the
# width first for others. Between the two passes pixels are clipped to 0..255, so the order shows: at hard edges, such
# as a product on white, pixels differ by 16 levels and more.
# In a retrieval system: photos encoded before and after the upgrade do not have the same vectors, but only those of
# some shapes, so a few test photos may show nothing. Resizing on the other side (torch scales the width first) agrees
# with Pillow 13 for some shapes only. Pin the version, and make it part of what marks an index as stale.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6
for version in 12.3.0 13.0.0; do
    "$folder/venv/bin/pip" install --quiet --no-deps --target "$folder/$version" "pillow==$version"
done

cat >"$folder/resize.py" <<'EOF'
import sys

import numpy as np
from PIL import Image

SIZES = [  # width and height, before and after
    ((1200, 1600), (224, 224)),
    ((288, 560), (280, 540)),
    ((300, 400), (384, 384)),
    ((200, 1000), (224, 224)),
]
rng = np.random.default_rng(0)
for before, after in SIZES:
    width, height = before
    pixels = np.full((height, width), 255, np.uint8)
    for _ in range(60):  # hard edged blocks on white
        x, y = rng.integers(width), rng.integers(height)
        pixels[y : y + rng.integers(3, height // 2), x : x + rng.integers(3, width // 2)] = rng.choice([0, 255])
    photo = Image.fromarray(pixels)

    def resize(*sizes):
        image = photo
        for size in sizes:
            image = image.resize(size, Image.Resampling.BICUBIC)
        return np.asarray(image).astype(int)

    direct = resize(after)
    width_first = np.abs(direct - resize((after[0], height), after)).max()
    height_first = np.abs(direct - resize((width, after[1]), after)).max()
    print(f"{before} to {after}: {width_first} levels from width first, {height_first} from height first")
EOF
for version in 12.3.0 13.0.0; do
    PYTHONPATH="$folder/$version" "$folder/venv/bin/python" "$folder/resize.py" >"$folder/$version.txt"
    echo "Pillow $version"
    cat "$folder/$version.txt"
done

# Pillow 12: always as width first. Pillow 13: some sizes as width first, some as height first.
test "$(grep -c ': 0 levels from width first' "$folder/12.3.0.txt")" = 4
grep -q ': 0 levels from width first' "$folder/13.0.0.txt"
grep -qE ': [0-9]{2} levels from width first, 0 from height first' "$folder/13.0.0.txt"
