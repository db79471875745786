//! The hashes of a fleet in Redis, of orders and of health: a script or a command each.

use std::collections::BTreeSet;

use redis::{Cmd, Value, cmd};

use super::{
    RedisStore, frame,
    order::{StampedOrder, Subject},
    order_book::Write,
};
use crate::error::BoxError;

/// Fields and their values.
pub(super) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What reading a whole hash led to.
#[derive(Debug)]
pub(super) enum Hash {
    Whole(Fields),
    /// It has this many fields, more than are read.
    TooLarge(i64),
}

/// The hashes under the prefix of a store.
pub(super) struct Remote {
    pub(super) store: RedisStore,
}

impl Remote {
    /// Reads a hash, if it has no more fields than instances write.
    pub(super) async fn read(&self, name: &str) -> Result<Hash, BoxError> {
        let mut command = cmd("EVAL");
        let key = self.store.own_key(name);
        command.arg(READ).arg(1).arg(key).arg(MOST_FIELDS);
        let parts = match self.store.link().call(&command).await? {
            Value::Array(parts) => parts,
            Value::Int(fields) => return Ok(Hash::TooLarge(fields)),
            _ => return Err(format!("{name}: another answer than fields").into()),
        };
        let mut parts = parts.into_iter().map(bytes);
        let mut fields = Vec::new();
        while let (Some(Some(field)), Some(Some(value))) = (parts.next(), parts.next()) {
            fields.push((field, value));
        }
        Ok(Hash::Whole(fields))
    }

    /// Reads the orders for these subjects alone.
    pub(super) async fn read_orders(
        &self,
        subjects: &BTreeSet<Subject>,
    ) -> Result<Fields, BoxError> {
        if subjects.is_empty() {
            return Ok(Vec::new());
        }
        let fields: Vec<_> = subjects.iter().map(Subject::field).collect();
        let mut command = cmd("HMGET");
        command.arg(self.store.own_key(ORDERS)).arg(&fields);
        let Value::Array(values) = self.store.link().call(&command).await? else {
            return Err(format!("{ORDERS}: another answer than values").into());
        };
        let fields = fields.into_iter().map(String::into_bytes);
        let both = fields.zip(values.into_iter().map(bytes));
        Ok(both
            .filter_map(|(field, value)| Some((field, value?)))
            .collect())
    }

    pub(super) async fn write(&self, write: &Write) -> Result<(), BoxError> {
        let mut command = self.script(WRITE, &write.subject, &write.order);
        command.arg(u8::from(write.is_new)).arg(self.channel());
        self.store.link().call(&command).await.map(drop)
    }

    /// Removes an order, unless another one replaced it.
    pub(super) async fn remove(
        &self,
        subject: &Subject,
        order: &StampedOrder,
    ) -> Result<(), BoxError> {
        let command = self.script(REMOVE, subject, order);
        self.store.link().call(&command).await.map(drop)
    }

    pub(super) async fn write_health(
        &self,
        instance: &str,
        report: Vec<u8>,
    ) -> Result<(), BoxError> {
        let mut command = cmd("HSET");
        command
            .arg(self.store.own_key(HEALTH))
            .arg(instance)
            .arg(report);
        self.store.link().call(&command).await.map(drop)
    }

    pub(super) async fn remove_health(&self, instance: Vec<u8>) -> Result<(), BoxError> {
        let mut command = cmd("HDEL");
        command.arg(self.store.own_key(HEALTH)).arg(instance);
        self.store.link().call(&command).await.map(drop)
    }

    /// Returns the channel on which instances announce orders.
    pub(super) fn channel(&self) -> String {
        self.store.own_key("changed")
    }

    fn script(&self, script: &str, subject: &Subject, order: &StampedOrder) -> Cmd {
        let mut command = cmd("EVAL");
        command
            .arg(script)
            .arg(1)
            .arg(self.store.own_key(ORDERS))
            .arg(subject.field())
            .arg(frame::encode(order.text().as_bytes()));
        command
    }
}

fn bytes(part: Value) -> Option<Vec<u8>> {
    match part {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

pub(super) const ORDERS: &str = "orders";
pub(super) const HEALTH: &str = "health";

/// Writes an order unless the store has it or a later one, and notifies the other instances. A value that
/// cannot be read is replaced by a new order alone. The frame's head has five bytes.
///
/// Texts are compared byte by byte, as the instances do: Lua's own comparison follows the locale that the
/// server was started with, and its numbers do not hold 20 digits.
const WRITE: &str = "\
local function is_earlier(a, b)
  for at = 1, math.min(#a, #b) do
    local x, y = a:byte(at), b:byte(at)
    if x ~= y then return x < y end
  end
  return #a < #b
end
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old then
  local readable = string.byte(old, 1) == 1 and old:sub(6, 26):match('^%d+ $')
  if readable and not is_earlier(old:sub(6), ARGV[2]:sub(6)) then return 0 end
  if not readable and ARGV[3] == '0' then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.pcall('PUBLISH', ARGV[4], ARGV[1])
return 1";

/// Removes an order, unless another one replaced it.
const REMOVE: &str = "\
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])";

/// Reads a hash that is not too large: another program may have filled it.
const READ: &str = "\
local fields = redis.call('HLEN', KEYS[1])
if fields > tonumber(ARGV[1]) then return fields end
return redis.call('HGETALL', KEYS[1])";

/// Two orders each for ten thousand backends: 2 MB.
pub(super) const MOST_FIELDS: usize = 20_000;
