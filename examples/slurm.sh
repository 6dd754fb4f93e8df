#!/bin/bash
# One run on four machines of eight GPUs each, for as long as it takes:
#   sbatch examples/slurm.sh runs/large experiment=shapes_gpu trainer.max_minutes=1000 trainer.batch_size=512
# The first argument is the run's folder, on a disk that all machines share; the others are keys of configs/train.yaml.
# Submitted again with the same folder, it goes on where it stopped.
#SBATCH --job-name=mfcdm
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

run=${1:?the run\'s folder is missing}
shift
what=("hydra.run.dir=$run" "$@")
[ -f "$run/config.yaml" ] && what=("resume=$run")

srun --kill-on-bad-exit=1 python train.py "${what[@]}" "trainer.devices=$SLURM_NTASKS_PER_NODE" "trainer.num_nodes=$SLURM_NNODES"
code=$?
# Two minutes before the time is over SLURM sends SIGTERM: the run has written a checkpoint, and takes another turn.
[ "$code" -eq 143 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$code"
