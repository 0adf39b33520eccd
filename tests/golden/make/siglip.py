"""What transformers makes of random SigLIPs of small sizes: writes siglip.json and siglip.safetensors beside this directory.

    pip install numpy pillow safetensors torch torchvision transformers sentencepiece protobuf
    python tests/golden/make/siglip.py        with transformers 5.24, torch 2.15, sentencepiece 0.2.3

Of each model what save_pretrained writes, with weights as float16 (what is computed follows those in float32); the features of
the golden pictures and of some texts, through the model's own processor; and of prompts of context vectors, the name's tokens
and padding up to all positions: features, loss and the loss's gradient in the context vectors.
"""

import io
import json
import tempfile
from pathlib import Path

import sentencepiece
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import Siglip2Tokenizer, SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipTokenizer

OUT = Path(__file__).parents[1]
WORDS = (Path(__file__).parents[3] / "data/demo/make/words.txt").read_text().split()
PICTURES = ["image_0_RGB.png", "image_1_RGB.png", "image_2_L.png"]
TEXTS = ["a photo of a red circle", "A Blue  STAR, isn't it?", "caﬁ x", "two green squares beside a small yellow moon, drawn by hand"]
NAMES = ["red circle", "Blue_star", "moon"]
CONTEXTS = 3


def lines():
    return [" ".join(WORDS[i : i + 6]) for i in range(0, len(WORDS), 6)]


def unigram(directory):
    """SigLIP's kind of tokenizer, with a rule of normalisation."""
    rules = Path(directory) / "rules.tsv"
    rules.write_text("FB01\t66 69\n")  # the ligature fi
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines()), model_writer=model, vocab_size=320, model_type="unigram", normalization_rule_tsv=str(rules),
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2,
    )
    file = Path(directory) / "spiece.model"
    file.write_bytes(model.getvalue())
    return SiglipTokenizer(str(file))


def whole(tokenizer):
    """A unigram tokenizer as tokenizer.json, which the hub has beside spiece.model."""
    model = tokenizer.sp_model
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]
    whole = Tokenizer(models.Unigram(pieces, unk_id=model.unk_id()))
    whole.normalizer = normalizers.Sequence([normalizers.Replace("ﬁ", "fi"), normalizers.Lowercase(), normalizers.Strip()])
    whole.pre_tokenizer = pre_tokenizers.Metaspace()
    whole.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", model.eos_id())])
    return json.loads(whole.to_str())


def pairs():
    """Gemma's kind of tokenizer, as SigLIP 2 uses it."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trained.train_from_iterator([line.lower() for line in lines()], trainers.BpeTrainer(vocab_size=200, show_progress=False))
    trained = json.loads(trained.to_str())["model"]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokens = special + [f"<0x{i:02X}>" for i in range(256)] + sorted(trained["vocab"], key=trained["vocab"].get)
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Siglip2Tokenizer(vocab=vocab, merges=[tuple(pair) for pair in trained["merges"]], padding_side="right")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", pair="$A <eos> $B <eos>", special_tokens=[("<eos>", 1)]
    )
    return tokenizer


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.startswith("logit_"):
            value = torch.full(parameter.shape, {"logit_scale": 2.5, "logit_bias": -4.0}[name])
        elif parameter.ndim == 1:
            value = 0.2 * noise + (1 if "norm" in name and name.endswith("weight") else 0)
        else:
            value = noise * parameter.shape[-1] ** -0.5
        parameter.data = value.half().float()


def features_of(model, embedded):
    """Features of token embeddings of all positions."""
    text = model.text_model
    x = text.embeddings(inputs_embeds=embedded)
    x = text.encoder(inputs_embeds=x, attention_mask=None).last_hidden_state
    return text.head(text.final_layer_norm(x)[:, -1])


def prompts(model, tokenizer, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=generator)
    positions, width = model.config.text_config.max_position_embeddings, model.config.text_config.hidden_size
    contexts = (0.5 * draw(len(NAMES), CONTEXTS, width)).requires_grad_()
    embeddings = torch.nn.functional.normalize(draw(7, model.config.vision_config.hidden_size), dim=-1)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 1])
    texts = [name.replace("_", " ") + "." for name in NAMES]
    ids = tokenizer(texts, padding="max_length", max_length=positions - CONTEXTS, return_tensors="pt").input_ids
    tails = model.text_model.embeddings.token_embedding(ids).detach()
    features = features_of(model, torch.cat([contexts, tails], 1))
    keys = torch.nn.functional.normalize(features, dim=-1)
    logits = model.logit_scale.exp() * embeddings @ keys.T + model.logit_bias
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    return {"contexts": contexts, "embeddings": embeddings, "labels": labels.float(), "keys": keys, "loss": loss[None], "gradient": contexts.grad}


def main():
    facts, tensors = {"pictures": PICTURES, "texts": TEXTS, "names": NAMES, "models": {}}, {}
    kinds = [("siglip", 3, 32, unigram), ("siglip2", 2, 35, lambda _: pairs())]  # 35 is no multiple of the patches' side
    for seed, (name, resample, side, make) in enumerate(kinds):
        with tempfile.TemporaryDirectory() as directory:
            tokenizer = make(directory)
            size = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
            model = SiglipModel(
                SiglipConfig(
                    text_config=size | {"vocab_size": len(tokenizer), "projection_size": 24, "bos_token_id": None, "eos_token_id": 1},
                    vision_config=size | {"hidden_size": 24, "num_attention_heads": 3, "image_size": side, "patch_size": 8},
                )
            ).eval()
            randomise(model, seed)
            pictures = SiglipImageProcessor(size={"height": side, "width": side}, resample=resample)
            for part in [model.config, pictures, tokenizer]:
                part.save_pretrained(directory)
            files = {}
            for file in sorted(Path(directory).iterdir()):
                if file.suffix == ".json":
                    files[file.name] = json.loads(file.read_text())
                elif file.suffix == ".model":
                    tensors[f"{name}.{file.name}"] = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
            facts["models"][name] = files
            if make is unigram:
                facts["whole"] = whole(tokenizer)
        pixels = pictures([Image.open(OUT / picture).convert("RGB") for picture in PICTURES], return_tensors="pt").pixel_values
        positions = model.config.text_config.max_position_embeddings
        ids = tokenizer(TEXTS, padding="max_length", max_length=positions, return_tensors="pt").input_ids
        with torch.no_grad():
            tensors[f"{name}.image_features"] = model.vision_model(pixels).pooler_output
            tensors[f"{name}.text_features"] = model.text_model(ids).pooler_output
        tensors[f"{name}.ids"] = ids.float()
        tensors |= {f"{name}.prompts.{key}": value.detach().contiguous() for key, value in prompts(model, tokenizer, seed).items()}
        tensors |= {f"{name}/{key}": value.half().contiguous() for key, value in model.state_dict().items()}
    (OUT / "siglip.json").write_text(json.dumps(facts, ensure_ascii=False) + "\n")
    save_file(tensors, OUT / "siglip.safetensors")


main()
