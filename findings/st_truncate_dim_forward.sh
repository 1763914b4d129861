#!/usr/bin/env bash
# sentence-transformers 6.2.0 (transformers 5.24.0)
#
# Expected: a model that is saved with truncate_dim=8 and says that its vectors have 8 dimensions gives 8, however it is
# called.
# Instead: only encode() cuts the vectors. A call of the model itself, model(model.preprocess(texts)), gives all 16.
# In a retrieval system: what is built on the call (an export, a training loss, a batching server) fills an index of
# another width than encode() and than the model's own count of its dimensions. Cut the vectors where they are used.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sentence-transformers==6.2.0 transformers==5.24.0 torch==2.14.1

HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'EOF'
import sys
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, BertModel, BertTokenizerFast

folder = Path(sys.argv[1])
torch.manual_seed(0)
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "shoe"]
(folder / "vocab.txt").write_text("\n".join(words))
BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
config = BertConfig(
    vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
)
BertModel(config).save_pretrained(folder / "bert")
SentenceTransformer(modules=[Transformer(str(folder / "bert")), Pooling(16)], truncate_dim=8).save(
    str(folder / "model")
)

model = SentenceTransformer(str(folder / "model"), device="cpu")
named = model.get_embedding_dimension()
encoded = model.encode(["red shoe"]).shape[1]
with torch.no_grad():
    called = model(model.preprocess(["red shoe"]))["sentence_embedding"].shape[1]

print(f"dimensions: the model says {named}, encode() gives {encoded}, a call of the model gives {called}")
sys.exit((named, encoded, called) != (8, 8, 16))
EOF
