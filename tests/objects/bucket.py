"""A directory into a bucket, and back: bucket.py put|get DIR BUCKET PREFIX

`remove` removes what lies below the prefix, `mark` marks it as a directory, as people's tools do.
"""

import os
import sys

import boto3

what, directory, bucket, prefix = sys.argv[1:]
s3 = boto3.client("s3")
if what == "mark":
    s3.put_object(Bucket=bucket, Key=prefix + "/")
elif what == "put":
    s3.create_bucket(Bucket=bucket)
    for above, _, files in os.walk(directory):
        for file in files:
            path = os.path.join(above, file)
            s3.upload_file(path, bucket, f"{prefix}/{os.path.relpath(path, directory)}")
else:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/"):
        for found in page.get("Contents", []):
            if what == "remove":
                s3.delete_object(Bucket=bucket, Key=found["Key"])
                continue
            path = os.path.join(directory, found["Key"][len(prefix) + 1 :])
            if path.endswith("/"):
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            s3.download_file(bucket, found["Key"], path)
