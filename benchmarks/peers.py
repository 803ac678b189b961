"""The same loss in torch libraries; needs `pip install -e '.[benchmark]'`.

Every peer computes alpha T^2 D + (1 - alpha) CE, its mean over tokens, and the
gradients of the student's hidden states and head. The benchmark is checked by the
agreement of all losses. The factor T^2 is added here for peers that lack it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from benchmarks.programs import ALPHA, TEMPERATURE

if TYPE_CHECKING:
    from benchmarks.contenders import Inputs, Request

# Liger's chunk size; the default, 1024, would cover all tokens of the CPU benchmark.
LIGER_CHUNK = 256
BETA = {"forward_kl": 0.0, "jsd": 0.5}

Loss = Callable[[Any, Any, Any, Any, Any], Any]


def make_step(
    request: "Request", inputs: "Inputs"
) -> tuple[Callable[[], float], Callable[[], int | None]]:
    """Returns a peer's step, and a getter of the GPU's peak memory in bytes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, request.dtype)

    def tensor(array: Any, gradient: bool = False) -> Any:
        # torch stores a head as [V, D], the layout it multiplies fastest.
        return torch.from_numpy(array).to(device, dtype).requires_grad_(gradient)

    arguments = (
        tensor(inputs.student_hidden, True),
        tensor(inputs.student_kernel.T.copy(), True),
        tensor(inputs.teacher_hidden),
        tensor(inputs.teacher_kernel.T.copy()),
        torch.from_numpy(inputs.labels).to(device, torch.long),
    )
    function = _LOSSES[request.name](BETA[request.kind])

    def step() -> float:
        for argument in arguments[:2]:
            argument.grad = None
        loss = function(*arguments)
        loss.backward()
        return float(loss)  # waits for the GPU

    def peak() -> int | None:
        return torch.cuda.max_memory_allocated() if device == "cuda" else None

    return step, peak


def _trl(beta: float) -> Loss:
    from trl.experimental.gkd import GKDTrainer

    def loss(hs: Any, ws: Any, ht: Any, wt: Any, labels: Any) -> Any:
        student = hs @ ws.T
        with torch.no_grad():
            teacher = ht @ wt.T
        soft = GKDTrainer.generalized_jsd_loss(
            student, teacher, beta=beta, temperature=TEMPERATURE
        )
        hard = F.cross_entropy(student.float(), labels)
        return ALPHA * TEMPERATURE**2 * soft + (1 - ALPHA) * hard

    return loss


def _liger(compiled: bool) -> Callable[[float], Loss]:
    def make(beta: float) -> Loss:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        function: Loss = LigerFusedLinearJSDLoss(
            weight_hard_loss=1 - ALPHA,
            weight_soft_loss=ALPHA * TEMPERATURE**2,
            beta=beta,
            temperature=TEMPERATURE,
            compiled=compiled,
            chunk_size=LIGER_CHUNK,
        )
        return function

    return make


def _torch_compile(beta: float) -> Loss:
    def loss(hs: Any, ws: Any, ht: Any, wt: Any, labels: Any) -> Any:
        student = (hs @ ws.T).float()
        with torch.no_grad():
            log_p = F.log_softmax((ht @ wt.T).float() / TEMPERATURE, -1)
        log_q = F.log_softmax(student / TEMPERATURE, -1)
        if beta == 0:
            soft = (log_p.exp() * (log_p - log_q)).sum(-1)
        else:
            p, q = log_p.exp(), log_q.exp()
            log_m = (beta * p + (1 - beta) * q).log()
            terms = beta * p * (log_p - log_m) + (1 - beta) * q * (log_q - log_m)
            soft = terms.sum(-1)
        hard = F.cross_entropy(student, labels)
        return ALPHA * TEMPERATURE**2 * soft.mean() + (1 - ALPHA) * hard

    compiled: Loss = torch.compile(loss)
    return compiled


_LOSSES: dict[str, Callable[[float], Loss]] = {
    "TRL": _trl,
    "Liger": _liger(compiled=False),
    "Liger compiled": _liger(compiled=True),
    "torch.compile": _torch_compile,
}
