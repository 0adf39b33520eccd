"""Train the demo's CLIP from scratch: a tokenizer, then two small towers on drawn pictures with captions.

    python train.py ../clip                 # train, save in the layout of a downloaded openai/clip-vit-*
    python train.py ../clip --only-test     # load what is there, measure it

One thread of a common CPU does it in about 20 minutes. Pictures and captions come from draw.py;
the demo's 20 classes are not among them. A tokenizer.json that is already there is kept: learning
one settles ties between equally frequent pairs at random, so that another run numbers tokens otherwise.
"""
import argparse
import io
import json
import math
import pathlib
import time

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPConfig, CLIPModel

import draw

SEED = draw.SEED
SIDE = 64               # pixels
POOL = 24576            # training pictures
BATCH = 128
STEPS = 2400
LR, WARMUP, DECAY = 1.5e-3, 200, 0.05
MERGES = 900            # of the tokenizer, on top of the 512 byte symbols
MAX_LOGIT_SCALE = math.log(100)
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
HERE = pathlib.Path(__file__).parent


# --- tokenizer -----------------------------------------------------------------------------------

def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes, in the order of CLIP's vocabulary."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in keep] + [chr(256 + i) for i in range(256 - len(keep))]


def clip_form(bpe: models.BPE) -> Tokenizer:
    """A BPE model with CLIP's text normalisation and splitting around it."""
    t = Tokenizer(bpe)
    t.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"),
                             behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.BPEDecoder(suffix="</w>")
    return t


def build_tokenizer() -> Tokenizer:
    """Byte-level BPE learnt from words.txt and the words of the captions, which come often and so become whole tokens."""
    of_captions = [*draw.HUES, *draw.PATTERNS, *draw.SHAPES, *" ".join(draw.TEMPLATES).split()]
    corpus = 100 * [" ".join(of_captions)] + 2 * [(HERE / "words.txt").read_text()]
    learner = clip_form(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    learner.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=512 + 2 * MERGES, initial_alphabet=byte_alphabet(), end_of_word_suffix="</w>", show_progress=False))
    merges = [tuple(m) for m in json.loads(learner.to_str())["model"]["merges"]][:MERGES]
    alphabet = byte_alphabet()
    words = alphabet + [c + "</w>" for c in alphabet] + ["".join(m) for m in merges] + [BOS, EOS]
    vocab = {w: i for i, w in enumerate(words)}
    t = clip_form(models.BPE(vocab=vocab, merges=merges, unk_token=EOS, end_of_word_suffix="</w>", continuing_subword_prefix=""))
    t.add_special_tokens([BOS, EOS])
    t.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, vocab[BOS]), (EOS, vocab[EOS])])
    return t


def tokenize(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """(N, longest) token ids, filled up with 0 after the end of text."""
    ids = [torch.tensor(e.ids) for e in tokenizer.encode_batch(texts)]
    return torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)


# --- model ---------------------------------------------------------------------------------------

def build_model(vocab_size: int) -> CLIPModel:
    return CLIPModel(CLIPConfig(
        vision_config=dict(image_size=SIDE, patch_size=8, hidden_size=96, num_hidden_layers=4, num_attention_heads=4,
                           intermediate_size=384, projection_dim=64, hidden_act="quick_gelu"),
        text_config=dict(vocab_size=vocab_size, max_position_embeddings=77, hidden_size=64, num_hidden_layers=3,
                         num_attention_heads=4, intermediate_size=256, projection_dim=64, hidden_act="quick_gelu",
                         bos_token_id=vocab_size - 2, eos_token_id=vocab_size - 1, pad_token_id=0),
        projection_dim=64))


def normalise(pictures: np.ndarray) -> torch.Tensor:
    """(N, 64, 64, 3) bytes -> (N, 3, 64, 64) as CLIP wants them."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def preprocess(picture: Image.Image) -> np.ndarray:
    """CLIP's preprocessing up to bytes: shortest edge to 64 (bicubic), centre crop."""
    w, h = picture.size
    size = (SIDE, int(SIDE * h / w)) if w <= h else (int(SIDE * w / h), SIDE)
    picture = picture.convert("RGB").resize(size, Image.BICUBIC)
    left, top = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    return np.asarray(picture.crop((left, top, left + SIDE, top + SIDE)))


def encode_images(model: CLIPModel, pictures: np.ndarray) -> torch.Tensor:
    """(N, 64) image embeddings, not normalised."""
    return model.visual_projection(model.vision_model(normalise(pictures)).pooler_output)


def encode_texts(model: CLIPModel, ids: torch.Tensor) -> torch.Tensor:
    """(N, 64) text embeddings, not normalised."""
    return model.text_projection(model.text_model(ids).pooler_output)


# --- measuring -----------------------------------------------------------------------------------

@torch.no_grad()
def accuracy(model: CLIPModel, tokenizer: Tokenizer, pictures: np.ndarray, labels: np.ndarray, names: list[str]) -> float:
    """% of the pictures whose nearest "a photo of a NAME" is that of their label."""
    model.eval()
    image = torch.cat([encode_images(model, p) for p in np.array_split(pictures, 1 + len(pictures) // 256)])
    text = encode_texts(model, tokenize(tokenizer, [f"a photo of a {n}" for n in names]))
    model.train()
    guess = (F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T).argmax(1).numpy()
    return 100 * float((guess == labels).mean())


def held_out(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """One new clean picture of each training combination."""
    names = draw.training_names()
    pictures = np.stack([np.asarray(draw.draw(n, draw.CLEAN, rng, (SIDE, SIDE))) for n in names])
    return pictures, np.arange(len(names)), names


def demo_pictures() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The demo's test pictures."""
    table = pq.read_table(HERE / "../pictures/test-00000-of-00001.parquet")
    pictures = [preprocess(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"].to_pylist()]
    return np.stack(pictures), table["label"].to_numpy(), draw.CLASSES


# --- training ------------------------------------------------------------------------------------

def train(tokenizer: Tokenizer) -> CLIPModel:
    rng = np.random.default_rng(SEED + 1)
    torch.manual_seed(SEED)
    names = draw.training_names()
    test = held_out(rng)
    start = time.time()
    # Each round of the pool holds every combination once, so that a batch never holds one twice.
    rounds = math.ceil(POOL / len(names))
    pool = np.stack([np.asarray(draw.draw(n, draw.CLEAN, rng, (SIDE, SIDE))) for n in names * rounds])
    pool = pool.reshape(rounds, len(names), SIDE, SIDE, 3)
    print(f"drew {rounds * len(names)} pictures of {len(names)} combinations in {time.time() - start:.0f} s")

    model = build_model(tokenizer.get_vocab_size()).train()
    for name, tower in (("vision", model.vision_model), ("text", model.text_model), ("all", model)):
        print(f"{name}: {sum(p.numel() for p in tower.parameters()):,} parameters")
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=DECAY), dict(params=others, weight_decay=0.0)],
                                  lr=LR, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(
        (s + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * max(0, s - WARMUP) / (STEPS - WARMUP))))
    start = time.time()
    for step in range(STEPS):
        which = rng.choice(len(names), BATCH, replace=False)
        ids = tokenize(tokenizer, [draw.caption(names[i], rng) for i in which])
        image = F.normalize(encode_images(model, pool[rng.integers(rounds, size=BATCH), which]), dim=-1)
        text = F.normalize(encode_texts(model, ids), dim=-1)
        logits = model.logit_scale.exp() * image @ text.T
        target = torch.arange(BATCH)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        if step % 100 == 99:
            print(f"step {step + 1:5d}  loss {loss.item():.3f}  logit scale {model.logit_scale.exp().item():5.1f}  "
                  f"held-out top-1 {accuracy(model, tokenizer, *test):5.1f} %  {time.time() - start:5.0f} s", flush=True)
    return model.eval()


def save(model: CLIPModel, tokenizer: Tokenizer, out: pathlib.Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "preprocessor_config.json").write_text(json.dumps(dict(
        crop_size=dict(height=SIDE, width=SIDE), do_center_crop=True, do_convert_rgb=True, do_normalize=True,
        do_rescale=True, do_resize=True, image_mean=MEAN, image_std=STD, resample=3, rescale_factor=1 / 255,
        size=dict(shortest_edge=SIDE)), indent=1) + "\n")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--only-test", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(1)
    if not a.only_test:
        path = a.out / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(path)) if path.exists() else build_tokenizer()
        print(f"tokenizer: {tokenizer.get_vocab_size()} tokens")
        save(train(tokenizer), tokenizer, a.out)
    model = CLIPModel.from_pretrained(a.out).eval()
    tokenizer = Tokenizer.from_file(str(a.out / "tokenizer.json"))
    print(f"held-out pictures of the {len(draw.training_names())} training combinations: "
          f"{accuracy(model, tokenizer, *held_out(np.random.default_rng(SEED + 2))):.1f} % top-1")
    print(f"zero-shot on the demo's test pictures, 20 classes: {accuracy(model, tokenizer, *demo_pictures()):.1f} %")


if __name__ == "__main__":
    main()
