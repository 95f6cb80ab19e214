"""Models of videos for the scripts: how they are read, pre-trained, tuned, tested and inspected."""

from tools.video.models import read_video_model as read_video_model
