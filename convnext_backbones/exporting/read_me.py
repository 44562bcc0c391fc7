"""The README of an exported model: what it is, and the code that runs it."""

from __future__ import annotations

from typing import Any

from ..inference.exported import FILES, INPUT, RECORD

# How each format runs: what is imported, and what follows the images.
RUNS = dict(
    onnx=(
        'import onnxruntime\n',
        f"session = onnxruntime.InferenceSession('{FILES['onnx']}')\n"
        f"outputs = session.run(None, {{'{INPUT}': images}})\n",
    ),
    openvino=(
        'import openvino\n',
        "settings = {'INFERENCE_PRECISION_HINT': 'f32'}  # some CPUs take bf16 otherwise\n"
        f"model = openvino.Core().compile_model('{FILES['openvino']}', 'CPU', settings)\n"
        'outputs = list(model([images]).values())\n',
    ),
    torch=(
        'import torch\n',
        f"model = torch.export.load('{FILES['torch']}').module()\n"
        'outputs = [output.numpy() for output in model(torch.from_numpy(images))]\n',
    ),
)
# Programs of torch.export call our operators for these.
OPERATORS = 'import convnext_backbones.ops.graph_operators  # what chooses boxes\n'
PASTE = """
`masks` are for the boxes, from 0 to 1. In the image, with the box's coordinates:

```python
def paste(mask, box, height, width):
    weights = []
    for low, high, size, cells in zip(box[[1, 0]], box[[3, 2]], (height, width), mask.shape):
        places = (np.arange(size)[:, None] + 0.5 - low) / (high - low) * cells - 0.5
        weights.append(np.maximum(0, 1 - abs(places - np.arange(cells))))
    return weights[0] @ mask @ weights[1].T >= 0.5
```
"""


def read_me(record: dict[str, Any]) -> str:
    """Return the text for the contents of ``config.json``."""
    outputs = record['outputs']
    name = next((name for name in ('boxes', 'labels') if name in outputs), outputs[0])
    place = outputs.index(name)
    imported, run = RUNS[record['format']]
    if record['format'] == 'torch' and record.get('operators'):
        imported += OPERATORS
    smallest = record.get('smallest', 1)
    sizes = 'of any size' if smallest == 1 else f'of at least {smallest} x {smallest} pixels'
    named = bool(record['classes'])
    label = "json.load(open('config.json'))['classes'][label]" if named else 'label'
    boxes = (
        'for box, score, label in zip(*(output[0] for output in outputs[:3])):\n'
        '    if label >= 0 and score > 0.3:  # rows without a detection have the label -1\n'
        f'        print({label}, score, box)\n'
    )
    detects = 'boxes' in outputs
    return (
        f'# {record["model"]}, {record["part"]}, {record["precision"]}\n\n'
        f'`{RECORD}` has classes, mean, std and the rest. Images are {sizes}, '
        f'{record["input"]["values"]}.\n\n'
        f'```python\n{"import json" + chr(10) if detects and named else ""}import numpy as np\n'
        f'{imported}\n'
        "example = np.load('example.npz')\n"
        "images = example['image'].transpose(2, 0, 1)[None].astype(np.float32)\n"
        f'{run}{boxes if detects else ""}'
        f"print(abs(outputs[{place}][0] - example['{name}']).max())  # 0, or a rounding error\n"
        f'```\n{PASTE if "masks" in outputs else ""}'
    )
