"""From media files to batches: decoding, the clip cache, the loader, and the front ends that run on the device."""
