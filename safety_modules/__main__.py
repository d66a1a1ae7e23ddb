"""`python -m safety_modules`, for launchers that start modules (`accelerate launch -m safety_modules`)."""

from safety_modules.cli import main

main()
