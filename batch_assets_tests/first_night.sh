#!/usr/bin/env bash
# Builds the distributions, installs the wheel into an empty environment, and does there what
# docs/tutorial.md begins with, and what docs/how-to.md says. Says how long a newcomer waits
# for what. Called by `make package`.
#
# usage: first_night.sh PYTHON FOLDER, where PYTHON has hatchling
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
python=$1
folder=$2
unset PYTHONPATH DAGSTER_HOME BATCH_ASSETS_ROOT

rm -rf "$folder"
mkdir -p "$folder"
(cd "$repository" && "$python" -m hatchling build -d "$folder/dist")
wheel=$(echo "$folder"/dist/*.whl)
# The wheel that the sdist gives is the same: whoever packages it for others builds from that.
mkdir "$folder/unpacked"
tar -xzf "$folder"/dist/*.tar.gz -C "$folder/unpacked" --strip-components 1
(cd "$folder/unpacked" && "$python" -m hatchling build -t wheel -d "$folder/again")
cmp "$wheel" "$folder"/again/*.whl

"$python" -m venv "$folder/venv"
cd "$folder"
SECONDS=0
venv/bin/pip install --quiet --disable-pip-version-check \
    --constraint "$repository/constraints.txt" "$wheel[ui]"
echo "pip install: ${SECONDS} s"
export PATH="$folder/venv/bin:$PATH"
pip check
batch-assets init shop >/dev/null
cd shop
python -m shop.train >/dev/null
day=$(date -u -d yesterday +%F)
batch-assets run churn --day "$day"
batch-assets lookup churn 42
echo "pip install to a served snapshot: ${SECONDS} s"
dg check defs
batch-assets --help >/dev/null

# Then all that docs/how-to.md says to type, from top to bottom.
mkdir "$folder/how-to"
cd "$folder/how-to"
SECONDS=0
sed -n '/^```bash$/,/^```$/{/^```/d;p}' "$repository/docs/how-to.md" | bash -euo pipefail >typed.log
echo "what docs/how-to.md says to type: ${SECONDS} s"
test "$(grep -c '^ended with 1$' typed.log)" = 2 # the late file, and the shut gate
grep -q '^overridden .*the model knows$' typed.log
python -c 'import batch_assets; print(batch_assets.__name__, "is typed")'
test -f "$(python -c 'import batch_assets, pathlib; print(pathlib.Path(batch_assets.__file__).parent)')/py.typed"
