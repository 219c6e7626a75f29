"""``python -m ea_pointcloud`` is the console command ``ea-pointcloud``."""

from ea_pointcloud.cli import main

main()
