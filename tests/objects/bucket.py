"""A directory into a bucket, and back: bucket.py put|get DIR BUCKET PREFIX"""

import os
import sys

import boto3

what, directory, bucket, prefix = sys.argv[1:]
s3 = boto3.client("s3")
if what == "put":
    s3.create_bucket(Bucket=bucket)
    for above, _, files in os.walk(directory):
        for file in files:
            path = os.path.join(above, file)
            s3.upload_file(path, bucket, f"{prefix}/{os.path.relpath(path, directory)}")
else:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/"):
        for found in page.get("Contents", []):
            path = os.path.join(directory, found["Key"][len(prefix) + 1 :])
            os.makedirs(os.path.dirname(path), exist_ok=True)
            s3.download_file(bucket, found["Key"], path)
