"""open_clip imports torchvision, which may need help to be importable."""

from avcore import compat

compat.install()
