#!/usr/bin/env bash
# sentence-transformers 6.2.0 (transformers 5.24.0) with a SigLIP model
#
# Expected: the vector of a text does not depend on the texts that are encoded along with it.
# Instead: texts are padded to the longest of their batch. SigLIP has no attention mask and was trained with all texts
# padded to one fixed length, so the padding is part of what it reads: the same text has another vector alone, beside a
# longer text, and as the model was trained.
# In a retrieval system: a query, encoded alone, and the same words in a batch of documents are far apart, and a rebuild
# with other batches changes the index. The vectors are right only by processing_kwargs={"text": {"padding":
# "max_length", "max_length": …}}.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
    sentence-transformers==6.2.0 transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 pillow==13.0.0

HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'EOF'
import sys

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

folder = sys.argv[1] + "/siglip"
length = 16
words = ["<pad>", "</s>", "<unk>", *"a blue red shoe wool coat with long sleeves and small buttons".split()]
rules = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
rules.pre_tokenizer = pre_tokenizers.Whitespace()
rules.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=rules,
    pad_token="<pad>",
    eos_token="</s>",
    unk_token="<unk>",
    model_max_length=length,
    model_input_names=["input_ids"],
)
tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
ids = {"vocab_size": len(words), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
config = SiglipConfig(
    text_config={**tower, **ids, "max_position_embeddings": length, "projection_size": 32},
    vision_config={**tower, "image_size": 32, "patch_size": 8},
)
torch.manual_seed(0)
SiglipModel(config).save_pretrained(folder)
SiglipProcessor(SiglipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)

short, long = "red shoe", "a blue wool coat with long sleeves and small buttons"
model = SentenceTransformer(modules=[Transformer(folder)], device="cpu")
alone = model.encode([short], normalize_embeddings=True)[0]
beside = model.encode([short, long], normalize_embeddings=True)[0]
fixed = Transformer(folder, processing_kwargs={"text": {"padding": "max_length", "max_length": length}})
model = SentenceTransformer(modules=[fixed], device="cpu")
trained = model.encode([short], normalize_embeddings=True)[0]
trained_beside = model.encode([short, long], normalize_embeddings=True)[0]

print(f"cosine of one text, alone and beside a longer one:     {alone @ beside:.4f}")
print(f"cosine, alone and padded to the trained length:        {alone @ trained:.4f}")
print(f"cosine, trained length, alone and beside a longer one: {trained @ trained_beside:.4f}")
sys.exit(not (alone @ beside < 0.99 and alone @ trained < 0.99 and trained @ trained_beside > 0.9999))
EOF
