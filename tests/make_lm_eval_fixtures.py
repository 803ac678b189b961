"""Writes lm_eval.json: what lm-evaluation-harness makes of transformers' models.

pip install -e '.[interop,harness]' accelerate peft
    PYTHONPATH=. python tests/make_lm_eval_fixtures.py
"""

import json
import pathlib
import tempfile

import lm_eval
import lm_eval_cases as cases
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

FILE = pathlib.Path(__file__).parent / "lm_eval.json"


def instances(kind, arguments):
    return [
        Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments
    ]


def answers(model):
    """Returns what a model of the harness answers to all requests."""
    return {
        "pairs": model.loglikelihood(instances("loglikelihood", cases.PAIRS)),
        "rolling": model.loglikelihood_rolling(
            instances("loglikelihood_rolling", [(text,) for text in cases.ROLLING])
        ),
        "generate": model.generate_until(instances("generate_until", cases.GENERATE)),
    }


def scores(model, place):
    """Returns what the harness measures with a model on the items."""
    path = pathlib.Path(place, "items.jsonl")
    path.write_text("".join(json.dumps(item) + "\n" for item in cases.ITEMS))
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=[cases.task(path)],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=2,  # 0 would leave out every standard error
        log_samples=True,
    )
    metrics = found["results"]["kdjax_items"]
    return {
        name: metrics[f"{name},none"]
        for metric in ("acc", "acc_norm", "acc_bytes")
        for name in (metric, f"{metric}_stderr")
    }, [
        [float(answer[0][0]) for answer in sample["resps"]]
        for sample in found["samples"]["kdjax_items"]
    ]


def hugging_face(path):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=path, device="cpu", dtype="float32", batch_size=4)


def main():
    found = {"lm_eval": lm_eval.__version__}
    for name in cases.CASES:
        with tempfile.TemporaryDirectory() as place:
            model = hugging_face(cases.write(name, place))
            found[name] = answers(model)
            metrics, logs = scores(model, place)
            found[name] |= {"metrics": metrics, "logs": logs}
    FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
