"""The forms in which travels what the codecs have no form for: values, raised exceptions, HTTP responses."""
