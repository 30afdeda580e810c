#!/usr/bin/env bash
# Makes models/shipped again, from text to evaluation.
#
#   runs/shipped/run.sh DATA [FATHOM]
#
# DATA holds poems/poems.jsonl.zst (the chinese-poetry collection, one JSON object a line); FATHOM is the program
# (target/release/fathom). Everything goes to runs/shipped/work, which git does not see. A run that was stopped goes on.
# Needs zstd and shuf.
set -euo pipefail
data=$(realpath "$1")
fathom=$(realpath "${2:-target/release/fathom}")
cd "$(dirname "$0")"
mkdir -p work

if [ ! -e work/poems.80k.jsonl ]; then
  "$fathom" data arithmetic --out work/arithmetic.train.jsonl --count 300000 --seed 1
  zstd -qdcf "$data/poems/poems.jsonl.zst" > work/poems.jsonl
  "$fathom" data poems --poems work/poems.jsonl --out work/poems.train.jsonl
  shuf -n 80000 --random-source=<(yes 42) work/poems.train.jsonl > work/poems.80k.jsonl
fi
[ -e work/data/tokenizer.json ] || "$fathom" data prepare --config data.toml
cp work/data/report.json data-report.json
resume=()
[ -e work/run/checkpoints/latest ] && resume=(--resume)
"$fathom" train --config run.toml --out work/run "${resume[@]}"
checkpoint=work/run/checkpoints/$(cat work/run/checkpoints/latest)

rm -rf work/shipped
"$fathom" quantize --model "$checkpoint" --to int8 --out work/shipped
cp generation_config.json work/shipped/

"$fathom" eval --model work/shipped --task arithmetic --count 1000 --answers work/arithmetic.answers.jsonl
"$fathom" eval --model work/shipped --task poems --poems work/poems.jsonl --count 600 --answers work/poems.answers.jsonl
