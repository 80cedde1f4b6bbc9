"""Export of a trained student: python -m afd.students.export STUDENT OUT --as KIND.

lora        pytorch_lora_weights.safetensors for WanPipeline.load_lora_weights
original-lora    lora.safetensors under the original's names, for ComfyUI and other readers of them
diffusers   a folder for WanTransformer3DModel.from_pretrained, LoRA merged in
original    model.safetensors under the original's names, LoRA merged in, for Self-Forcing's and
            Wan's own code

A LoRA has alpha / rank multiplied in: strength 1 is the student, whatever a reader makes of alpha.
STUDENT is a folder of store/student_weights. The licences of its published weights still apply.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from safetensors.torch import save_file

from afd.config import is_published, student_family
from afd.students.checkpoint import WeightsName, load_student
from afd.students.layouts import to_original
from afd.students.strict_loading import CheckpointError
from afd.students.wan_checkpoints import SINGLE, STOCK_CLASS

Kind = Literal["lora", "original-lora", "diffusers", "original"]


def export(student: Path, out: Path, kind: Kind, which: WeightsName = "average") -> Path:
    """Write the student of a StudentWeights folder into the folder `out`; return the file.

    Raises CheckpointError for a student that this kind cannot hold, FileExistsError for an `out`
    that is not empty.
    """
    from afd.students import lora, published

    loaded = load_student(student, which)
    network = loaded.student
    if not isinstance(network, published.MODELS) or not is_published(loaded.params):
        raise CheckpointError(
            f"{student}: a {loaded.params.family} has no LoRA to export; its weights are "
            f"{student / f'{which}.safetensors'}, under diffusers' names"
        )
    if (
        kind in ("original", "original-lora")
        and not student_family(loaded.params.family).has_original_layout
    ):
        raise CheckpointError(f"{student}: {loaded.params.family} has no original layout")
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out}: is not empty; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    if kind in ("lora", "original-lora"):
        write = lora.export_lora if kind == "lora" else lora.export_original_lora
        names = "diffusers' names" if kind == "lora" else "the original's names, as in ComfyUI"
        sys.stderr.write(f"{lora.described(network, 'student')}; {names}\n")
        return write(network, "student", out)
    state = {
        name: value.cpu().contiguous() for name, value in lora.merged(network, "student").items()
    }
    if kind == "original":
        save_file(to_original(state), out / "model.safetensors")
        return out / "model.safetensors"
    config = {key: value for key, value in dict(network.config).items() if not key.startswith("_")}
    stock = STOCK_CLASS if isinstance(network, published.CausalWan) else published.FAR_CLASS
    (out / "config.json").write_text(json.dumps({"_class_name": stock, **config}, indent=1))
    save_file(state, out / SINGLE, metadata={"format": "pt"})
    return out / SINGLE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the export; return exit code 0, or 2 with the error on stderr."""
    parser = argparse.ArgumentParser(prog="python -m afd.students.export", description=__doc__)
    parser.add_argument("student", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--as", dest="kind", choices=get_args(Kind), default="lora")
    parser.add_argument("--which", choices=get_args(WeightsName), default="average")
    chosen = parser.parse_args(argv)
    try:
        file = export(chosen.student, chosen.out, chosen.kind, chosen.which)
    except (CheckpointError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{file}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
