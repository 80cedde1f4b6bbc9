"""The development cluster itself: jobs over several nodes, and its limits as configured."""

from tests.slurm.conftest import RealSlurm


def test_a_job_of_two_nodes_and_an_array_beyond_the_limit(slurm: RealSlurm) -> None:
    out = slurm.root / "nodes"
    script = "srun --ntasks=2 --nodes=2 printenv SLURMD_NODENAME"
    slurm.ask("sbatch", "--wait", "--nodes=2", f"--output={out}", f"--wrap={script}")
    assert len(set(out.read_text().split())) == 2
    assert "MaxArraySize            = 4" in slurm.ask("scontrol", "show", "config")
