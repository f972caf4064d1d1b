import sys
from pathlib import Path

# The hand-written cases are shared by two test files and are no package.
sys.path.insert(0, str(Path(__file__).parent))
