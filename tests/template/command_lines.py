"""Check the command lines of app.py's two Jobs against the released packages. No test of the suite: run by hand,

    python tests/template/command_lines.py [--python 3.12]

after a change to the lists in app.py, or to find out whether new releases still work. For each Job, `uv` installs what
it would install in the Job (6 GB in a temporary folder, most of it torch), and the real console script gets the Job's
exact arguments. Then the real code trains and evaluates a model of a few kilobytes on the CPU: some dependencies that
do not fit break only there. It needs a package index, but no GPU and no Hub. What would be pushed is only noted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

ROOT = Path(__file__).parents[2]
SETTINGS = {"TRAINING_DATASET": "username/my-dataset", "TRAINED_MODEL": "username/my-model", "RESULTS_ORG": "results"}
GSM8K = [{"question": f"What is {i} + 1?", "answer": f"One more.\n#### {i + 1}"} for i in range(16)]


def main(python: str) -> None:
    with tempfile.TemporaryDirectory(prefix="command-lines-") as folder:
        venv.create(f"{folder}/venv", with_pip=True)
        subprocess.run([f"{folder}/venv/bin/pip", "install", "--quiet", "uv"], check=True)
        for job in jobs():
            dependencies = [option for dependency in job["dependencies"] for option in ("--with", dependency)]
            check = ["python", str(Path(__file__).resolve()), "--check"]
            subprocess.run(
                [f"{folder}/venv/bin/uv", "run", "--quiet", "--python", python, *dependencies, *check],
                check=True,
                cwd=folder,
                env={**os.environ, "UV_CACHE_DIR": f"{folder}/cache"},
                input=json.dumps(job).encode(),
            )


def jobs() -> Iterator[dict[str, Any]]:
    """What app.py's handlers would start for a commit to the dataset, and for one to the model."""
    os.environ.update(SETTINGS, DRY_RUN="true")
    sys.path.insert(0, str(ROOT))
    import app
    from webhooks import Delivery, WebhookPayload

    for handler, fixture in (
        (app.trigger_training, "repo.content-update"),
        (app.trigger_evaluation, "repo.content-update-model"),
    ):
        payload = WebhookPayload.model_validate_json((ROOT / "tests/server/fixtures" / f"{fixture}.json").read_bytes())
        job = handler(payload, Delivery(f"/webhooks/{handler.__name__}", payload))
        yield {**job.model_dump(), "settings": app.settings.model_dump(), "revision": payload.revision()}


def check(job: dict[str, Any]) -> None:
    """Check one Job. Runs inside what its dependencies installed, in the temporary folder."""
    os.environ.update(HOME=os.getcwd(), HF_TOKEN="hf_of_the_job", TOKENIZERS_PARALLELISM="false")
    os.environ.pop("HF_HOME", None)
    packages = (job["command"], "transformers", "huggingface_hub", "datasets", "accelerate", "torch")
    print("\n" + ", ".join(f"{name} {version(name)}" for name in packages), f"on Python {sys.version.split()[0]}")
    print("$", job["command"], *job["args"], flush=True)
    {"trl": check_training, "lighteval": check_evaluation}[job["command"]](job)


def check_training(job: dict[str, Any]) -> None:
    from huggingface_hub import HfApi, RepoUrl, get_token
    from trl.cli import accelerate_launcher
    from trl.scripts import sft

    settings, args = job["settings"], job["args"]
    with (
        patch("transformers.training_args.is_torch_bf16_gpu_available", return_value=True),  # as on the Job's GPU
        patch.object(accelerate_launcher, "launch_training_script") as launch,
    ):
        run_console_script(job["command"], args)
        script, training, model, _ = sft.make_parser().parse_args_and_config(args[1:])
    expect("the script", launch.call_args.kwargs["script_name"], "sft.py")
    expect("what it does not know", launch.call_args.kwargs["launch_args"], [])
    expect("what it is given", launch.call_args.kwargs["training_script_args"], args[1:])
    expect("trains", model.model_name_or_path, settings["base_model"])
    expect("on the dataset", script.dataset_name, settings["training_dataset"])
    expect("pushes", training.push_to_hub, True)
    expect("to the model", training.hub_model_id, settings["trained_model"])
    expect("private, if new", training.hub_private_repo, True)
    expect("to the branch", training.hub_revision or "main", "main")
    expect("with the token", training.hub_token or get_token(), "hf_of_the_job")

    Path("data").mkdir()
    Path("data/train.jsonl").write_text("\n".join(json.dumps({"text": row["question"]}) for row in GSM8K))
    make_tiny_model("tiny")
    local = [f"--model_name_or_path={Path('tiny').resolve()}", "--dataset_name=data", "--use_cpu", "--max_length=64"]
    model_id = settings["trained_model"]
    with (
        patch.object(HfApi, "create_repo", return_value=RepoUrl(f"https://huggingface.co/{model_id}")),
        patch.object(HfApi, "upload_folder") as upload,
    ):
        sft.main(*sft.make_parser().parse_args_and_config([*args[1:], *local]))
    commits = [(call.kwargs["repo_id"], call.kwargs["commit_message"]) for call in upload.call_args_list]
    # Each commit starts an evaluation: so none while it trains. The second only adds the dataset to the model card.
    expect("its commits", commits, [(model_id, "Model save"), (model_id, "End of training")])


def check_evaluation(job: dict[str, Any]) -> None:
    from datasets import Dataset, DatasetDict
    from huggingface_hub import HfApi, get_token
    from lighteval import pipeline
    from lighteval.logging.evaluation_tracker import EvaluationTracker
    from lighteval.tasks import lighteval_task

    settings, args = job["settings"], job["args"]
    with patch.object(pipeline, "Pipeline") as made:
        run_console_script(job["command"], args)
    asked, config, tracker = (made.call_args.kwargs[name] for name in ("tasks", "model_config", "evaluation_tracker"))
    expect(
        "evaluates", (type(config).__name__, config.model_name), ("TransformersModelConfig", settings["trained_model"])
    )
    expect("at the commit", config.revision, job["revision"])
    expect("on the tasks", asked, settings["evaluation_tasks"])
    expect("pushes", tracker.should_push_to_hub, True)
    expect("to the owner", tracker.hub_results_org, settings["results_org"])
    expect("for all to see", tracker.public, False)
    expect("with the token", tracker.api.token or get_token(), "hf_of_the_job")

    make_tiny_model("tiny")
    rows = DatasetDict(train=Dataset.from_list(GSM8K), test=Dataset.from_list(GSM8K))
    with (
        patch("requests.get", return_value=Mock(status_code=404)),  # lighteval fetches a benchmark nobody asked for
        patch.object(lighteval_task, "load_dataset", return_value=rows),
        patch.multiple(HfApi, model_info=Mock(), repo_info=Mock(), repo_exists=Mock(return_value=False)),
        patch.object(HfApi, "create_repo") as create,
        patch.object(HfApi, "upload_file") as upload,
        patch.object(EvaluationTracker, "recreate_metadata_card") as card,
    ):
        local = [arg.replace(f"model_name={settings['trained_model']}", "model_name=tiny") for arg in args]
        run_console_script(job["command"], [*local, "--max-samples=2"])
    repo_id = f"{settings['results_org']}/details_tiny_private"
    commits = {(call.kwargs["repo_type"], call.kwargs["repo_id"]) for call in upload.call_args_list}
    # Datasets, not models: the results start no evaluation.
    expect("its commits", commits, {("dataset", repo_id)})
    expect("creates for them", create.call_args.args, (repo_id,))
    expect("writes the card of", card.call_args.args, (repo_id,))


def run_console_script(name: str, args: list[str]) -> None:
    """Run what the shell would run, in this process."""
    (script,) = entry_points(group="console_scripts", name=name)
    with patch.object(sys, "argv", [name, *args]):
        try:
            result = script.load()()
        except SystemExit as end:
            result = end.code
    assert not result, f"{name} ended with {result}"


def make_tiny_model(folder: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    letters = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {token: number for number, token in enumerate(["<|pad|>", "<|im_end|>", *sorted(letters)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    heads = {"num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 2048, "eos_token_id": 1}
    Qwen3ForCausalLM(Qwen3Config(vocab_size=len(vocabulary), **size, **heads)).save_pretrained(folder)


def expect(what: str, found: object, wanted: object) -> None:
    assert found == wanted, f"{what}: {found!r}, not {wanted!r}"
    print(f"  {what}: {found!r}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", default="3.12", help="as `uv run --python` takes it; the Hub's image has 3.12")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    check(json.load(sys.stdin)) if options.check else main(options.python)
