#!/bin/busybox sh
# Runs the agent once the lab has left a start script on the data disk.
# busybox init starts this again whenever it ends: a killed agent is back
# after about a second.
sleep 1
[ -x /data/lab/agent ] && /data/lab/agent >>/data/log/agent.log 2>&1
