"""`ladle benchmark`: systems trained, sampled and scored alike, from one suite file to one table and its plots."""
