#!/usr/bin/env bash
# torch 2.13.0 (oneDNN 3.12.0), x86-64 with VNNI.
#
# ONEDNN_MAX_CPU_ISA is documented to choose which instructions oneDNN takes, as an aid for reproducing what another
# processor does. It changes sums: held to AVX2 or AVX512_CORE, a convolution of uint8 and int8 adds pairs of products in 16
# bits, which saturate without a word, and torch.cpu._is_vnni_supported(), which programs ask before they trust such sums,
# still says True, as it asks the processor and not oneDNN.
#
# Four products of 255 and 127, seen: 129540 without a limit and at AVX512_CORE_VNNI, 65534 at AVX2 and at AVX512_CORE.
set -euo pipefail
grep -q avx512_vnni /proc/cpuinfo || { echo "this processor has no VNNI: nothing to compare"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/sum.py" <<'PYTHON'
import torch

x = torch.full((1, 4, 4, 4), 255, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
weight, one = torch.full((8, 4, 1, 1), 127, dtype=torch.int8), torch.ones(8)
window = [1, 1], [0, 0], [1, 1], 1
packed = torch.ops.onednn.qconv_prepack(weight, one, 1.0, 0, *window, list(x.shape))
y = torch.ops.onednn.qconv2d_pointwise(
    x, 1.0, 0, packed, one, torch.zeros(8, dtype=torch.int64), None, *window, 1.0, 0, torch.float32, "none", [], ""
)
print(int(y.flatten()[0]), torch.cpu._is_vnni_supported())
PYTHON
run() { "$folder/venv/bin/python" "$folder/sum.py"; }
found="$(env -u ONEDNN_MAX_CPU_ISA "$folder/venv/bin/python" "$folder/sum.py")"
for level in AVX512_CORE_VNNI AVX512_CORE AVX2; do found="$found; $(ONEDNN_MAX_CPU_ISA=$level run)"; done
echo "no limit; AVX512_CORE_VNNI; AVX512_CORE; AVX2: $found"
[ "$found" = "129540 True; 129540 True; 65534 True; 65534 True" ]
