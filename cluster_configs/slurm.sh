#!/usr/bin/env bash
# A run on Slurm: sbatch cluster_configs/slurm.sh news.yaml [--set a.b=value]
# Slurm starts it again after a lost node; after the time limit submit it again. It resumes.
# On GPUs: sbatch --gpus-per-node=4 cluster_configs/slurm.sh news.yaml --set resources.profile=gpus
# The first node keeps a processor for the head and the driver; every node works.
#SBATCH --job-name=hercules-scale
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --requeue
set -euo pipefail

config=$1
environment=${HERCULES_ENVIRONMENT:-$PWD/.venv}
export PATH="$environment/bin:$PATH"

# The token is made for this job and handed on in the environment, never on a command line.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
# Debian gives a machine's own name an address of the loopback.
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" \
    sh -c 'hostname --ip-address; hostname --all-ip-addresses' |
    tr ' ' '\n' | grep -v -e '^127\.' -e : -e '^$' | head --lines=1) ||
    { echo "$head has no IPv4 address but 127.*; give it one that the nodes reach" >&2; exit 1; }
port=$((20000 + SLURM_JOB_ID % 10000))
folder=${SLURM_TMPDIR:-/tmp}/ray_$SLURM_JOB_ID

# Until the Ray cluster has so many nodes.
wait_for_nodes() {
    python - "$address:$port" "$1" <<'END'
import sys, time, ray
address, wanted = sys.argv[1], int(sys.argv[2])
deadline = time.monotonic() + 600
while True:
    try:
        ray.init(address, logging_level="ERROR", log_to_driver=False)
        while (there := sum(node["Alive"] for node in ray.nodes())) < wanted:
            if time.monotonic() > deadline:
                print(f"{there} of {wanted} nodes came in 10 minutes; these work", file=sys.stderr)
                break
            time.sleep(1)
        break
    except ConnectionError:
        if time.monotonic() > deadline:
            raise
        time.sleep(1)
END
}

srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
    ray start --head --block --node-ip-address="$address" --port="$port" \
    --num-cpus=$((SLURM_CPUS_PER_TASK - 1)) --dashboard-host=127.0.0.1 --temp-dir="$folder" &
wait_for_nodes 1
if [ "${#nodes[@]}" -gt 1 ]; then
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --exclude="$head" --overlap \
        ray start --block --address="$address:$port" --num-cpus="$SLURM_CPUS_PER_TASK" &
    wait_for_nodes "${#nodes[@]}"
fi

# The driver runs on the head; what srun started ends with the job.
RAY_ADDRESS=$address:$port srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
    hercules-scale run "$config" "${@:2}"
