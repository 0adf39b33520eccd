"""CLIP's image encoder by the libraries that run it on a CPU: rivals that `make bench-torch` times.

    python encoders.py LIBRARY MODEL IMAGES DTYPE     seconds per image, pixels in memory to embeddings

LIBRARY is torch, onnxruntime or openvino, DTYPE float32 or bfloat16. Uses as many threads as OMP_NUM_THREADS says, and of
two batch sizes, and of one stream and one for each thread where a library has streams, what is fastest.
"""

import os
import pathlib
import sys
import time

import numpy as np
import torch
from transformers import CLIPModel

BATCHES = 4, 16
THREADS = int(os.environ["OMP_NUM_THREADS"])


class Encoder(torch.nn.Module):
    def __init__(self, model: str) -> None:
        super().__init__()
        clip = CLIPModel.from_pretrained(model).eval()
        self.vision, self.projection = clip.vision_model, clip.visual_projection
        self.side = clip.config.vision_config.image_size

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.projection(self.vision(pixels).pooler_output)


def of_torch(encoder: Encoder, directory: pathlib.Path, dtype: str):
    encoder = encoder.to(getattr(torch, dtype))
    for batch in BATCHES:
        pixels = torch.randn(batch, 3, encoder.side, encoder.side, dtype=getattr(torch, dtype))
        yield batch, lambda: encoder(pixels)


def of_onnxruntime(encoder: Encoder, directory: pathlib.Path, dtype: str):
    import onnxruntime

    file = directory / "encoder.onnx"
    if not file.exists():
        pixels = torch.zeros(2, 3, encoder.side, encoder.side)
        names = {"input_names": ["pixels"], "output_names": ["embeddings"]}
        axes = {name: {0: "batch"} for name in ("pixels", "embeddings")}
        torch.onnx.export(encoder, (pixels,), file.with_suffix(".new"), dynamo=False, dynamic_axes=axes, opset_version=18, **names)
        file.with_suffix(".new").rename(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    for batch in BATCHES:
        pixels = np.random.default_rng(0).standard_normal((batch, 3, encoder.side, encoder.side), dtype=np.float32)
        yield batch, lambda: session.run(None, {"pixels": pixels})


def of_openvino(encoder: Encoder, directory: pathlib.Path, dtype: str):
    import openvino

    model = openvino.convert_model(encoder, example_input=torch.zeros(2, 3, encoder.side, encoder.side))
    for batch in BATCHES:
        pixels = np.random.default_rng(0).standard_normal((batch, 3, encoder.side, encoder.side), dtype=np.float32)
        model.reshape(list(pixels.shape))
        for streams in {1, THREADS}:
            hint = {"float32": "f32", "bfloat16": "bf16"}[dtype]
            settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": streams}
            compiled = openvino.Core().compile_model(model, "CPU", settings)
            queue = openvino.AsyncInferQueue(compiled, streams)

            def run() -> None:
                for _ in range(streams):
                    queue.start_async({0: pixels})
                queue.wait_all()

            yield batch * streams, run


@torch.inference_mode()
def main(library: str, model: str, images: str, dtype: str) -> None:
    torch.set_num_threads(THREADS)
    best = float("inf")
    for batch, run in globals()[f"of_{library}"](Encoder(model), pathlib.Path(model), dtype):
        run(), run()  # warm up
        times = max(1, int(images) // batch)
        start = time.perf_counter()
        for _ in range(times):
            run()
        best = min(best, (time.perf_counter() - start) / times / batch)
    print(best)


if __name__ == "__main__":
    main(*sys.argv[1:])
