"""For `make test-vllm`, on the path of its processes: lets the registry's torchvision load beside a CPU build of torch.

vLLM's LLaVA imports torchvision and uses nothing of it. The registry has only the build for CUDA, whose library does
not load there, so that two operators it describes are missing. A CPU build of torchvision needs none of this.
"""

from importlib.metadata import version

import torch

if "+cpu" in torch.__version__ and "+cpu" not in version("torchvision"):
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
