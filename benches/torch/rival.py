"""What the stages compute, in plain PyTorch with transformers: the rival that `make bench-torch` times.

    python rival.py inputs DIR MODEL IMAGES             a ViT-B/32 with random weights and photo-like JPEGs, once
    python rival.py encode MODEL IMAGES                 seconds per image, files on disk to embeddings
    python rival.py vae DIM CLASSES ROWS EPOCHS         seconds per class and epoch
    python rival.py step MODEL NAMES CLASSES STEPS      seconds per prompt step on 128 embeddings, median
    python rival.py run MODEL EMBEDDINGS TASKS VAE_EPOCHS EPOCHS     seconds of fitting, aligning and scoring

The method is CGIL (arXiv 2407.15793). Prints one number, `run` the final average accuracy as well.
"""

import math
import pathlib
import statistics
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer
from torch import nn
from transformers import CLIPConfig, CLIPModel

BATCH = 32
ROWS = 128
SAMPLES = 256


def inputs(directory: str, model: str, images: str) -> None:
    """A checkpoint of ViT-B/32's size with the tokenizer of `model`, and `images` pictures of about 300x200."""
    root = pathlib.Path(directory)
    torch.manual_seed(0)
    small = CLIPConfig.from_pretrained(model)
    config = CLIPConfig(
        text_config=dict(vocab_size=small.text_config.vocab_size, bos_token_id=small.text_config.bos_token_id,
                         eos_token_id=small.text_config.eos_token_id),
        vision_config={}, projection_dim=512)
    clip = CLIPModel(config)
    clip.save_pretrained(root / "vit-b-32")
    for name in ("tokenizer.json", "preprocessor_config.json"):
        text = (pathlib.Path(model) / name).read_text()
        (root / "vit-b-32" / name).write_text(text.replace(": 64", ": 224") if name.startswith("pre") else text)

    rng = np.random.default_rng(0)
    for i in range(int(images)):
        width, height = int(rng.integers(220, 380)), int(rng.integers(150, 250))
        coarse = Image.fromarray(rng.integers(0, 256, (12, 18, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
        grain = rng.normal(0, 6, (height, width, 3))
        picture = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
        folder = root / "pictures" / ("train" if i % 2 else "test") / "thing"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{i:04}.jpg", quality=90)


class Pictures(torch.utils.data.Dataset):
    """The JPEGs below a directory as CLIP sees them."""

    def __init__(self, directory: str, side: int) -> None:
        self.files, self.side = sorted(pathlib.Path(directory).rglob("*.jpg")), side

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        image = Image.open(self.files[i]).convert("RGB")
        scale = self.side / min(image.size)
        image = image.resize([max(self.side, int(n * scale)) for n in image.size], Image.BICUBIC)
        left, top = (image.width - self.side) // 2, (image.height - self.side) // 2
        image = image.crop((left, top, left + self.side, top + self.side))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
        return (pixels - mean) / std


@torch.inference_mode()
def encode(model: str, images: str) -> float:
    clip = CLIPModel.from_pretrained(model).eval()
    side = clip.config.vision_config.image_size
    embed = lambda pixels: clip.visual_projection(clip.vision_model(pixels).pooler_output)
    embed(torch.zeros(BATCH, 3, side, side))
    pictures = Pictures(images, side)
    start = time.perf_counter()
    done = sum(len(embed(pixels)) for pixels in torch.utils.data.DataLoader(pictures, batch_size=BATCH))
    return (time.perf_counter() - start) / done


class Vae(nn.Module):
    def __init__(self, dim: int, hidden: int = 512, latent: int = 256) -> None:
        super().__init__()
        norm = lambda: (nn.BatchNorm1d(hidden), nn.LeakyReLU(0.2))
        self.encoder = nn.Sequential(nn.Linear(dim, hidden), *norm(), nn.Linear(hidden, hidden), *norm(),
                                     nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden),
                                     nn.LeakyReLU(0.2), nn.Linear(hidden, dim))
        self.latent = latent

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mean negative ELBO of rows (B, D)."""
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        error = 0.5 * ((self.decoder(z) - x).square() + math.log(2 * math.pi)).sum()
        return (error + 0.5 * (logvar.exp() + mu.square() - 1 - logvar).sum()) / len(x)

    @torch.no_grad()
    def sample(self, n: int) -> torch.Tensor:
        return self.decoder(torch.randn(n, self.latent)) * self.spread + self.centre


def fit(x: torch.Tensor, epochs: int) -> Vae:
    """A VAE for the rows (N, D) of one class. Both of the method's scalings together are one affine map."""
    vae = Vae(x.shape[1])
    vae.centre, vae.spread = x.mean(0), x.std(0).clamp_min(1e-12)
    x = (x - vae.centre) / vae.spread
    adam = torch.optim.Adam(vae.parameters(), lr=2e-4)
    rate = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(adam, max(1, epochs // 10), 2)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            if len(rows) > 1:
                adam.zero_grad()
                vae(x[rows]).backward()
                adam.step()
        rate.step()
    return vae.eval()


def vae(dim: str, classes: str, rows: str, epochs: str) -> float:
    data = [torch.randn(int(rows), int(dim)) for _ in range(int(classes))]
    fit(data[0], 2)
    start = time.perf_counter()
    for x in data:
        fit(x, int(epochs))
    return (time.perf_counter() - start) / int(classes) / int(epochs)


class Prompts(nn.Module):
    """[start of text][context][generated context][NAME.][end of text] for every class."""

    def __init__(self, model: str, names: list[str]) -> None:
        super().__init__()
        self.clip = CLIPModel.from_pretrained(model).eval().requires_grad_(False)
        self.tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
        self.scale = self.clip.logit_scale.exp()
        embedding = self.clip.text_model.embeddings.token_embedding
        ids, ends = self.tokens([f"a photo of a {name}" for name in names])
        with torch.no_grad():
            self.zero_shot = self.encode(embedding(ids), ends)
            ids, self.ends = self.tokens([f"{name}." for name in names])
            self.start, self.tail = embedding(ids[:, :1]), embedding(ids[:, 1:-2])
        self.ends = self.ends + 2
        p, w = self.zero_shot.shape[1], self.start.shape[2]
        self.contexts = nn.Parameter(0.02 * torch.randn(len(names), 1, w))
        layer = lambda inputs, out: (nn.Linear(inputs, out), nn.BatchNorm1d(out), nn.SELU())
        self.generator = nn.Sequential(*layer(p, p), *layer(p, p), *layer(p, w), nn.Linear(w, w)).eval()

    def tokens(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (C, 77), and where each text ends (C)."""
        encoded = [self.tokenizer.encode(text).ids for text in texts]
        ids = torch.zeros(len(texts), 77, dtype=torch.long)
        for row, text in zip(ids, encoded):
            row[: len(text)] = torch.tensor(text)
        return ids, torch.tensor([len(text) - 1 for text in encoded])

    def encode(self, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Token embeddings (C, 77, W) → features (C, P)."""
        text = self.clip.text_model
        x = x + text.embeddings.position_embedding.weight
        c, t, w = x.shape
        for layer in text.encoder.layers:
            attention, y = layer.self_attn, layer.layer_norm1(x)
            split = lambda part: part(y).view(c, t, attention.num_heads, -1).transpose(1, 2)
            q, k, v = split(attention.q_proj), split(attention.k_proj), split(attention.v_proj)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + attention.out_proj(mixed.transpose(1, 2).reshape(c, t, w))
            x = x + layer.mlp(layer.layer_norm2(x))
        return self.clip.text_projection(text.final_layer_norm(x)[torch.arange(c), ends])

    def keys(self, n: int) -> torch.Tensor:
        """Normalised features (n, P) of the first n classes."""
        generated = self.generator(self.zero_shot[:n]).unsqueeze(1)
        x = torch.cat([self.start[:n], self.contexts[:n], generated, self.tail[:n]], dim=1)
        return F.normalize(self.encode(x, self.ends[:n]), dim=-1)

    def optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([self.contexts, *self.generator.parameters()], lr=0.05, weight_decay=0.0)

    def step(self, adam: torch.optim.Optimizer, n: int, embeddings: torch.Tensor, labels: torch.Tensor) -> None:
        adam.zero_grad()
        F.cross_entropy(self.scale * embeddings @ self.keys(n).T, labels).backward()
        adam.step()


def step(model: str, names: str, classes: str, steps: str) -> float:
    n = int(classes)
    lines = pathlib.Path(names).read_text().splitlines()
    prompts = Prompts(model, [lines[i % len(lines)] for i in range(n)])
    adam = prompts.optimiser()
    embeddings = F.normalize(torch.randn(ROWS, prompts.zero_shot.shape[1]), dim=-1)
    labels = torch.arange(ROWS) % n
    seconds = []
    for _ in range(int(steps) + 1):
        start = time.perf_counter()
        prompts.step(adam, n, embeddings, labels)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def run(model: str, embeddings: str, tasks: str, vae_epochs: str, epochs: str) -> str:
    read = lambda split: pq.read_table(f"{embeddings}/{split}", columns=["label", "class_name", "embedding"])
    stack = lambda table: torch.tensor(np.stack(table["embedding"].to_numpy(zero_copy_only=False)))
    train, test = read("train"), read("test")
    x, y = stack(train), torch.tensor(train["label"].to_pylist())
    x_test, y_test = F.normalize(stack(test), dim=-1), torch.tensor(test["label"].to_pylist())
    names = dict(zip(train["label"].to_pylist(), train["class_name"].to_pylist()))
    names = [names[label].replace("_", " ") for label in sorted(names)]
    bounds = [min(len(names), (t + 1) * math.ceil(len(names) / int(tasks))) for t in range(int(tasks))]
    prompts = Prompts(model, names)
    vaes: list[Vae] = []
    start = time.perf_counter()
    for n in bounds:
        vaes += [fit(x[y == label], int(vae_epochs)) for label in range(len(vaes), n)]
        adam = prompts.optimiser()
        labels = torch.arange(n).repeat_interleave(SAMPLES)
        for _ in range(int(epochs)):
            drawn = F.normalize(torch.cat([vae.sample(SAMPLES) for vae in vaes]), dim=-1)
            for rows in torch.randperm(len(drawn)).split(ROWS):
                prompts.step(adam, n, drawn[rows], labels[rows])
        with torch.no_grad():
            keys = torch.cat([prompts.keys(n), F.normalize(prompts.zero_shot[n:], dim=-1)])
            predicted = torch.where(y_test < n, (x_test @ keys[:n].T).argmax(1), (x_test @ keys.T).argmax(1))
    seconds = time.perf_counter() - start
    per_task = [(predicted == y_test)[(y_test >= a) & (y_test < b)].float().mean() for a, b in zip([0, *bounds], bounds)]
    return f"{seconds} {100 * statistics.mean(map(float, per_task))}"


if __name__ == "__main__":
    work = {"inputs": inputs, "encode": encode, "vae": vae, "step": step, "run": run}.get(sys.argv[1] if sys.argv[1:] else "")
    if work is None:
        sys.exit(__doc__)
    torch.manual_seed(0)
    answer = work(*sys.argv[2:])
    if answer is not None:
        print(answer)
