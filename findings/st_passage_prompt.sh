#!/usr/bin/env bash
# sentence-transformers 6.2.0 (transformers 5.24.0)
#
# Expected: encode_document is documented to take the first of the model's prompts "document", "passage" and "corpus",
# so a model of the E5 family, with the prompts "query" and "passage", puts "passage: " before each document.
# Instead: every model is given an empty "document" prompt of its own, and saves it too. It is found first, so "passage"
# and "corpus" are never used, and no warning is given. "query" works as documented.
# In a retrieval system: queries carry the prompt that the model was trained with and documents do not; search gets
# worse without a sign. Pass prompt_name="passage", or save the prompt under the name "document".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sentence-transformers==6.2.0 transformers==5.24.0 torch==2.14.1

HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'EOF'
import json
import sys
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, BertModel, BertTokenizerFast

folder = Path(sys.argv[1])
torch.manual_seed(0)
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", "passage", ":", "red", "shoe"]
(folder / "vocab.txt").write_text("\n".join(words))
BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
config = BertConfig(
    vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
)
BertModel(config).save_pretrained(folder / "bert")
SentenceTransformer(
    modules=[Transformer(str(folder / "bert")), Pooling(16)], prompts={"query": "query: ", "passage": "passage: "}
).save(str(folder / "e5"))
saved = json.loads((folder / "e5" / "config_sentence_transformers.json").read_text())["prompts"]

model = SentenceTransformer(str(folder / "e5"), device="cpu")
document = model.encode_document("red shoe")
plain, prompted = model.encode("red shoe"), model.encode("passage: red shoe")
query_is_prompted = np.allclose(model.encode_query("red shoe"), model.encode("query: red shoe"), atol=1e-5)
document_is_plain = np.allclose(document, plain, atol=1e-5)
document_is_prompted = np.allclose(document, prompted, atol=1e-5)

print("prompts given:  {'query': 'query: ', 'passage': 'passage: '}")
print("prompts saved: ", saved)
print("encode_query uses 'query: ':", query_is_prompted)
print("encode_document uses 'passage: ':", document_is_prompted)
print("encode_document equals encode without a prompt:", document_is_plain)
sys.exit(not (query_is_prompted and document_is_plain and not document_is_prompted and saved["document"] == ""))
EOF
