import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_quickstart_prints_something_true(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / "quickstart.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    exact, network, drawn = done.stdout.splitlines()
    distance, floor = map(float, re.findall(r"\d+\.\d+", exact))
    # 200 steps leave a small error of the integrator; three fresh samples differ by a third of the floor themselves.
    assert distance < 2 * floor
    first, final = map(float, re.findall(r"\d+\.\d+", network))
    assert final < 0.95 * first  # the mean of 50 steps scatters by about 0.02
    assert "(2, 300, 3)" in drawn
    assert 0.5 < float(re.search(r"spread (\d+\.\d+)", drawn)[1]) < 2.0
