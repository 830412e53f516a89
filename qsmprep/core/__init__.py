"""Physics and algorithms on arrays: no files, no Nipype, no global state."""
