"""The line between boards and microcontrollers: frames, reliable link, sensors, ports."""
