"""Images: opening references, reading JPEG, PNG and TIFF, cutting fields into tiles.

Nothing is imported here, so that the gateway can use `gramserve.images.open` without numpy and OpenCV.
"""
