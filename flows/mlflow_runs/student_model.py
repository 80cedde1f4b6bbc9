"""A registered student as MLflow's `python_function`: videos of sentences, weights by reference.

    model = mlflow.pyfunc.load_model("models:/demo-student@champion")
    made = model.predict(["a small red ball starts high on the left and drops straight down"])
    Path("ball.mp4").write_bytes(made["mp4"][0])

MLflow has one small file a version, MLmodel. The weights stay in the store; where that has moved,
AFD_STORE or model_config={"store": ...} names it. Versions that an earlier AFD recorded have no
such flavour: `python -m flows.mlflow_runs.student_model runs/demo` writes it for all of a campaign.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from afd.sampling.campaign import Campaign, open_campaign
from afd.sampling.errors import SamplingError
from flows.mlflow_runs.run_ids import RunIds
from flows.paths import CampaignPaths

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

    from afd.sampling.student import SampledStudent

STORE_VARIABLE = "AFD_STORE"
FLAVOUR = "afd"
MODULE = "flows.mlflow_runs.student_model"  # __name__ is another one where it is run
_INPUTS = [{"type": "string", "required": True}]
_OUTPUTS = [
    {"type": kind, "name": name, "required": True}
    for name, kind in (("sentence", "string"), ("seed", "long"), ("fps", "long"), ("mp4", "binary"))
]
_PARAMS = [
    {"name": "seed", "default": 1, "shape": None, "type": "long"},
    {"name": "guidance", "default": 0.0, "shape": None, "type": "double"},  # 0: none
]


class StudentModel:
    """Model for `mlflow.pyfunc.load_model`; `predict` makes a video of each sentence."""

    def __init__(self, student: "SampledStudent") -> None:
        self.student = student

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> "pd.DataFrame":
        """Return a row a video: sentence, seed, fps and mp4 (the bytes that `afd sample` writes).

        `params`: seed of the noise, guidance (0: none). Raises SamplingError for a sentence that
        the student cannot read.
        """
        import pandas as pd

        chosen = {"seed": 1, "guidance": 0.0, **(params or {})}
        videos = self.student(
            sentences_of(model_input),
            [int(chosen["seed"])],
            guidance=float(chosen["guidance"]) or None,
        )
        rows = [(one.sentence, one.seed, one.fps, one.mp4()) for one in videos]
        return pd.DataFrame(rows, columns=[str(column["name"]) for column in _OUTPUTS])


def sentences_of(model_input: Any) -> list[str]:
    """Return the sentences of a table's first column or a sequence."""
    if isinstance(model_input, str):
        return [model_input]
    if hasattr(model_input, "iloc") and getattr(model_input, "ndim", 1) == 2:
        model_input = model_input.iloc[:, 0]
    values: Sequence[Any] = getattr(model_input, "tolist", lambda: list(model_input))()
    return [str(value) for value in values]


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> StudentModel:
    """MLflow's entry point: `path` is the folder of the MLmodel file."""
    from afd.sampling.student import of_weights

    content = yaml.safe_load((Path(path) / "MLmodel").read_text())
    pointer: Mapping[str, Any] = content["flavors"][FLAVOUR]
    folder = weights_folder(pointer, (model_config or {}).get("store"))
    return StudentModel(of_weights(folder, pointer.get("afd.fps")))


def weights_folder(pointer: Mapping[str, Any], store: str | None = None) -> Path:
    """Return the folder of a version's weights in a store on this disk.

    Raises SamplingError with the folders that were searched.
    """
    named = store or os.environ.get(STORE_VARIABLE)
    paths = [named] if named else [pointer.get("afd.store_root"), "store"]
    inside = Path(str(pointer["afd.store"])).relative_to("store")
    looked_at = [Path(str(place)) / inside for place in paths if place]
    for folder in looked_at:
        if (folder / "student.json").is_file():
            return folder
    raise SamplingError(
        f"the weights of this student ({pointer['afd.fingerprint'][:16]}) are not in "
        f"{' nor '.join(map(str, looked_at))}: MLflow holds a reference, the store has the bytes\n"
        f"  where the store has moved: export {STORE_VARIABLE}=DIR, or "
        'load_model(..., model_config={"store": "DIR"})\n'
        "  in another clone: `dvc pull` brings them"
    )


def mlmodel(model_id: str, pointer: Mapping[str, str], campaign_folder: Path) -> str:
    """Return the text of a version's MLmodel file; equal arguments give equal text."""
    import mlflow

    where: dict[str, Any] = dict(pointer) | _where(campaign_folder)
    content = {
        "flavors": {
            # MLflow hands model_config over only where the file has one
            "python_function": {
                "loader_module": MODULE,
                "python_version": platform.python_version(),
                "config": {"store": None},
            },
            FLAVOUR: where,
        },
        "mlflow_version": mlflow.__version__,
        "model_id": model_id,
        "model_uuid": uuid.uuid5(uuid.NAMESPACE_URL, str(pointer["afd.fingerprint"])).hex,
        "signature": {
            "inputs": json.dumps(_INPUTS),
            "outputs": json.dumps(_OUTPUTS),
            "params": json.dumps(_PARAMS),
        },
    }
    return yaml.safe_dump(content, sort_keys=False)


def log_mlmodel(
    client: "MlflowClient", model_id: str, pointer: Mapping[str, str], campaign_folder: Path
) -> None:
    """Log a version's MLmodel file, over an earlier one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "MLmodel"
        file.write_text(mlmodel(model_id, pointer, campaign_folder))
        client.log_model_artifact(model_id, str(file))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the flavour for every version of a campaign's model."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=main.__doc__)
    parser.add_argument("campaign", type=Path, help="its folder, e.g. runs/demo")
    folder: Path = parser.parse_args(argv).campaign
    from mlflow import MlflowClient

    client = MlflowClient(CampaignPaths(folder.parent).tracking_uri())
    known = [str(e["model_id"]) for e in RunIds(folder).entries().values() if e.get("model_id")]
    for model_id in known:
        tags = client.get_logged_model(model_id).tags
        pointer = {name: value for name, value in tags.items() if name.startswith("afd.")}
        log_mlmodel(client, model_id, pointer, folder)
    sys.stdout.write(f"{folder.name}-student: {len(known)} version(s) load with mlflow.pyfunc\n")
    return 0 if known else 2


def _where(campaign_folder: Path) -> dict[str, Any]:
    """Return the store's path and the clips' frame rate, empty where they are not known."""
    try:
        campaign: Campaign = open_campaign(campaign_folder)
        return {
            "afd.store_root": str(campaign.store.root.resolve()),
            "afd.fps": int(campaign.settings["fps"]),
        }
    except SamplingError:
        return {}


if __name__ == "__main__":
    sys.exit(main())
