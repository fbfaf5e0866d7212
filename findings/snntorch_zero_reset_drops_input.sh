#!/usr/bin/env bash
# snnTorch 1.0.0.
#
# reset_mechanism="zero" acts one step after the spike (reset_delay=True, the default), and means two things. Leaky sets the
# potential to zero before the decay and then adds the input of that step. Synaptic and RLeaky compute the whole update and
# set its result to zero: the input that arrives in the step after a spike never reaches the membrane, and the neuron cannot
# fire in that step however strong its input is.
#
# Input 2 in each of six steps, threshold 1, beta 0.5. Spikes seen: Leaky 1 1 1 1 1 1, Synaptic (alpha 0) and RLeaky
# (recurrent weight 0) 1 0 1 0 1 0; membranes after the second step: 2.0, 0.0, 0.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 snntorch==1.0.0 numpy==2.4.6
cat > "$folder/reset.py" <<'PYTHON'
import snntorch
import torch

neurons = {
    "Leaky": snntorch.Leaky(beta=0.5, reset_mechanism="zero", init_hidden=True, output=True),
    "Synaptic": snntorch.Synaptic(alpha=0.0, beta=0.5, reset_mechanism="zero", init_hidden=True, output=True),
    "RLeaky": snntorch.RLeaky(beta=0.5, V=0.0, all_to_all=False, reset_mechanism="zero", init_hidden=True, output=True),
}
for name, neuron in neurons.items():
    with torch.no_grad():
        steps = [neuron(torch.full((1, 1), 2.0)) for _ in range(6)]
    print(name, *(int(step[0]) for step in steps), float(steps[1][-1]))
PYTHON
found="$("$folder/venv/bin/python" "$folder/reset.py")"
echo "$found"
[ "$found" = "Leaky 1 1 1 1 1 1 2.0
Synaptic 1 0 1 0 1 0 0.0
RLeaky 1 0 1 0 1 0 0.0" ]
