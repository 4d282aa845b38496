"""A commit to your dataset trains your model; a commit to your model evaluates it.

Change the settings and the two functions below. Each function is a webhook: the Hub posts an event to
/webhooks/<name of the function>, and the function's return value is the answer.
"""

from typing import Annotated

from dotenv import load_dotenv
from pydantic import StringConstraints

from webhooks import Delivery, WebhookPayload, WebhooksServer, read_settings
from webhooks.jobs import launch_job

RepoId = Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]
Duration = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?[smhd]$")]


load_dotenv()
settings = read_settings(  # a variable of the Space or a line in .env changes each: TRAINING_DATASET=me/data
    training_dataset=(RepoId, "username/my-dataset"),
    base_model=(RepoId, "Qwen/Qwen3-0.6B"),
    trained_model=(RepoId, "username/my-model"),
    training_flavor="a10g-small",
    training_timeout=(Duration, "2h"),
    evaluation_tasks="gsm8k|0",
    evaluation_flavor="a10g-small",
    evaluation_timeout=(Duration, "1h"),
    results_org=None,  # the user or organization that gets the results; by default the owner of the trained model
    jobs_namespace=None,  # the user or organization that pays; by default the owner of HF_TOKEN
)
server = WebhooksServer()


@server.add_webhook(
    max_attempts=5,
    watched={"type": "dataset", "name": settings.training_dataset, "domains": ["repo"]},
)
def trigger_training(payload: WebhookPayload, delivery: Delivery):
    """Fine-tunes the base model when the training dataset has a new commit."""
    if not payload.updates("dataset", settings.training_dataset):
        return {"skipped": f"not a new commit on main of the dataset {settings.training_dataset}"}
    return launch_job(
        delivery,
        "trl",
        [
            "sft",
            f"--model_name_or_path={settings.base_model}",
            f"--dataset_name={settings.training_dataset}",
            f"--hub_model_id={settings.trained_model}",
            "--push_to_hub",
            "--hub_private_repo=true",  # counts only if the model is new
            "--save_strategy=no",  # push only at the end: each push starts an evaluation
            "--output_dir=trained",
        ],
        dependencies=["trl==1.16.0", "transformers<6"],
        flavor=settings.training_flavor,
        timeout=settings.training_timeout,
        namespace=settings.jobs_namespace,
        cancel_running=True,
    )


@server.add_webhook(
    max_attempts=5,
    watched={"type": "model", "name": settings.trained_model, "domains": ["repo"]},
)
def trigger_evaluation(payload: WebhookPayload, delivery: Delivery):
    """Evaluates the trained model at the commit that was just pushed."""
    if not payload.updates("model", settings.trained_model):
        return {"skipped": f"not a new commit on main of the model {settings.trained_model}"}
    return launch_job(
        delivery,
        "lighteval",
        [
            "accelerate",
            f"model_name={settings.trained_model},revision={payload.revision()}",
            settings.evaluation_tasks,
            f"--results-org={settings.results_org or settings.trained_model.split('/')[0]}",
            "--push-to-hub",
            "--output-dir=results",
        ],
        dependencies=["lighteval==0.13.0", "huggingface_hub<2", "xxhash<4"],  # lighteval breaks with newer versions
        flavor=settings.evaluation_flavor,
        timeout=settings.evaluation_timeout,
        namespace=settings.jobs_namespace,
        cancel_running=True,  # TRL pushes the model card after the model: the last commit is the one to evaluate
    )


if __name__ == "__main__":
    server.launch()
