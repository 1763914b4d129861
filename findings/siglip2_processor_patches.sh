#!/usr/bin/env bash
# transformers 5.24.0, Siglip2Processor (SigLIP 2 with flexible resolution)
#
# Expected: a processor that is saved with max_num_patches=1024 and patch_size=14 prepares photos that way when loaded.
# Instead: the saved values are read, and shown by processor.image_processor, but a call of the processor puts its own
# defaults, 256 patches of 16 pixels, in their place. A call of processor.image_processor uses the saved ones.
# In a retrieval system: a model that was tuned for more patches sees every photo at a quarter of the detail, with no
# warning, and two code paths that load one folder do not give the same vectors. Pass max_num_patches in each call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
    transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 pillow==13.0.0 numpy==2.4.6

HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'EOF'
import sys

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models
from transformers import AutoProcessor, PreTrainedTokenizerFast, Siglip2ImageProcessor, Siglip2Processor

folder = sys.argv[1] + "/siglip2"
rules = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=rules, pad_token="<pad>", unk_token="<unk>")
Siglip2Processor(Siglip2ImageProcessor(max_num_patches=1024, patch_size=14), tokenizer).save_pretrained(folder)

processor = AutoProcessor.from_pretrained(folder)
kept = processor.image_processor
photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8))
by_processor = tuple(processor(images=photo, return_tensors="pt")["pixel_values"].shape)
by_image_processor = tuple(kept(images=photo, return_tensors="pt")["pixel_values"].shape)

print(f"loaded: max_num_patches={kept.max_num_patches}, patch_size={kept.patch_size}")
print(f"processor(images=…):                 {by_processor[1]} patches of {by_processor[2]} values")
print(f"processor.image_processor(images=…): {by_image_processor[1]} patches of {by_image_processor[2]} values")
sys.exit(
    (kept.max_num_patches, kept.patch_size) != (1024, 14)
    or by_processor != (1, 256, 16 * 16 * 3)
    or by_image_processor != (1, 1024, 14 * 14 * 3)
)
EOF
